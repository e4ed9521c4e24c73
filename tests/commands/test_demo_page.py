"""`mmmeta demo` in a real browser, headless."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from tiny_models import write_model
from warm import Fork

from mmmeta.cli import main

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
WAIT = 300_000  # ms; the first run imports MMDetection, possibly on a busy machine
# One block per stage; the widths are those of the heads' inputs.
ARCH = dict(depths=(1, 1, 1, 1), dims=(64, 128, 320, 512))
# Not needed for exported files.
HEAVY = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'cv2', 'matplotlib')
pytestmark = pytest.mark.slow


def save(folder: Path, cfg: Config) -> None:
    """Write a config and a checkpoint of random weights, like a training run."""
    folder.mkdir(parents=True)
    cfg.model.backbone.arch = ARCH
    cfg.dump(folder / 'config.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict()}, folder / 'epoch_1.pth')


@pytest.fixture(scope='module')
def folder(root, tmp_path_factory) -> Path:
    """A folder with work_dirs/: a detector that finds something in any image."""
    folder = tmp_path_factory.mktemp('demo')
    cfg = Config.fromfile(root / 'configs/detection/retinanet_poolformer_s12_shapes.py')
    save(folder / 'work_dirs/detector', cfg)
    (folder / 'work_dirs/broken').mkdir()
    (folder / 'work_dirs/broken/config.py').write_text('model = dict(')
    shutil.copy(folder / 'work_dirs/detector/epoch_1.pth', folder / 'work_dirs/broken')
    return folder


@pytest.fixture(scope='module')
def browser() -> Iterator:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f'no browser on the PATH: looked for {", ".join(BROWSERS)}'
        if os.environ.get('CI') == 'true':
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        # Without a sandbox it also runs as root in a container.
        yield playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])


def address_of(process: subprocess.Popen | Fork, folder: Path) -> str:
    line = process.stdout.readline()
    found = re.fullmatch(r'mmmeta demo: (http://\S+) \(Ctrl-C stops it\)\n', line)
    assert found, line + (folder / 'stderr.txt').read_text()
    return found[1]


def stop(process: subprocess.Popen | Fork, folder: Path) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert 'Traceback' not in (folder / 'stderr.txt').read_text()


@pytest.fixture(scope='module')
def server(folder) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmmeta.cli', 'demo', '--no-browser'],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / 'stderr.txt').open('w'),
        text=True,
    )
    yield address_of(process, folder)
    stop(process, folder)
    # The reason for skipping a folder is printed in one line.
    assert (
        'skipped: config work_dirs/broken/config.py'
        in (folder / 'stderr.txt').read_text()
    )


@pytest.fixture(scope='module')
def context(browser) -> BrowserContext:
    """One for all pages, so that they share a cache."""
    return browser.new_context(viewport=dict(width=1280, height=900))


@pytest.fixture
def page(context, server) -> Iterator[Page]:
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(server)
    expect(page.locator('#run')).to_be_enabled()
    yield page
    page.close()


def upload(page: Page, path: Path) -> None:
    page.set_input_files('input[type=file]', path)
    expect(page.get_by_label('Remove Image')).to_be_visible()


def picture(page: Page) -> np.ndarray:
    """Return the picture that the page shows, uint8 (H, W, 3), RGB."""
    source = page.locator('#picture img').get_attribute('src')
    body = page.request.get(source).body()
    return np.array(Image.open(io.BytesIO(body)).convert('RGB'))


def set_threshold(page: Page, value: float) -> None:
    number = page.locator('#threshold input[type=number]')
    number.fill(str(value))
    number.press('Enter')


def test_detections_are_shown_and_follow_the_slider(page, shapes):
    requests = []
    page.on('request', lambda request: requests.append(request.url))
    page.reload()
    expect(page.locator('#run')).to_be_enabled()
    page.wait_for_timeout(500)
    # No second answer is on its way, which could clear what the user has done by then.
    assert sum('/run/predict' in url for url in requests) == 1
    path = shapes / 'images/val/000001.jpg'
    upload(page, path)
    page.click('#run')
    status = page.locator('#status')
    expect(status).to_contain_text(
        re.compile(
            r'Model: \d+ ms on \w+, after a warm-up\. Image: 128x128 pixels, '
            r'128x128 as the model sees it\.'
        ),
    )
    set_threshold(page, 0)
    summary = page.locator('#summary')
    expect(summary).to_contain_text(
        re.compile(r'[1-9]\d* objects? with a score above 0\.00: \d+ \w+')
    )
    found = picture(page)
    image = Image.open(path).convert('RGB')
    assert found.shape == (640, 640, 3)  # small images are enlarged for the labels
    plain = np.array(image.resize((640, 640), Image.Resampling.BICUBIC))

    def share_changed(shown: np.ndarray) -> float:
        return (np.abs(shown.astype(int) - plain).max(-1) > 60).mean()

    assert share_changed(found) > 0.01
    took = status.inner_text()
    set_threshold(page, 1)
    expect(summary).to_have_text('0 objects with a score above 1.00')
    expect(page.locator('#picture img')).to_be_visible()
    assert share_changed(picture(page)) == 0
    assert status.inner_text() == took  # the model did not run again

    outside = [
        url
        for url in requests
        if not re.match(r'http://127\.0\.0\.1:|data:|blob:', url)
    ]
    assert len(requests) > 20
    assert outside == []

    # On a phone, nothing is outside the screen.
    page.set_viewport_size(dict(width=360, height=740))
    assert page.evaluate('document.scrollingElement.scrollWidth') <= 360


def test_keyboard_alone(page):
    """Choose an example, run the model and move the slider without a mouse."""

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press('Tab')
            if page.evaluate('s => document.activeElement.matches(s)', selector):
                outline = page.evaluate(
                    'getComputedStyle(document.activeElement).outlineStyle'
                )
                assert outline == 'solid'  # the focus is seen
                return
        raise AssertionError(f'{selector} is not reached by Tab')

    tab_to('button:has(input[type=file]), [aria-label*="upload" i]')
    tab_to('.gallery-item')
    page.keyboard.press('Enter')
    expect(page.get_by_label('Remove Image')).to_be_visible()
    tab_to('#run')
    page.keyboard.press('Enter')
    expect(page.locator('#status')).to_contain_text('256x256 pixels')
    tab_to('#threshold input[type=range]')
    page.keyboard.press('End')
    expect(page.locator('#summary')).to_have_text('0 objects with a score above 1.00')


def test_tasks_come_and_go(page):
    for task, offered in (('segmentation', False), ('detection', True)):
        page.get_by_label(task).check()
        expect(page.locator('#model')).to_be_visible(visible=offered)
        expect(page.locator('#run')).to_be_enabled(enabled=offered)
        hint = '' if offered else re.compile(f'No trained model for {task} found: ')
        expect(page.locator('#hint')).to_have_text(hint)


def test_errors_are_a_line_on_the_page(page, folder, shapes):
    error = page.locator('#status [role=alert]')
    page.click('#run')
    expect(error).to_contain_text('choose an image first')
    # After an example, because Gradio then recreates the image's component.
    page.locator('.gallery-item').first.click()
    page.get_by_label('Remove Image').click()
    (folder / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n no image')
    page.set_input_files('input[type=file]', folder / 'broken.png')
    expect(error).to_have_count(0)
    page.click('#run')
    expect(error).to_contain_text('this file cannot be read as an image')

    # A checkpoint of another model, typed into the page.
    torch.save({'state_dict': {'fc.weight': torch.zeros(2)}}, folder / 'other.pth')
    page.get_by_role('button', name='Another model').click()
    page.get_by_label('Config').fill('work_dirs/detector/config.py')
    page.get_by_label('Checkpoint').fill('nothing.pth')
    page.click('#add')
    expect(error).to_contain_text('no checkpoint nothing.pth')
    page.get_by_label('Checkpoint').fill('other.pth')
    page.click('#add')
    expect(page.locator('#model input')).to_have_value('config (other.pth)')
    page.get_by_label('Remove Image').click()
    upload(page, shapes / 'images/val/000001.jpg')
    page.click('#run')
    expect(error).to_contain_text('other.pth')
    assert page.locator('#picture img').count() == 0


def test_without_a_model_it_says_what_to_run(
    browser, warm_python, tmp_path, root, shapes
):
    code = 'import sys; from mmmeta.cli import main; sys.exit(main(sys.argv[1:]))'
    log = tmp_path / 'stderr.txt'
    process = warm_python.start(
        'demo', '--no-browser', code=code, log=log, cwd=tmp_path
    )
    try:
        address = address_of(process, tmp_path)
        page = browser.new_page()
        page.goto(address)
        hint = page.locator('#hint')
        expect(hint).to_contain_text('make demo')
        expect(page.locator('#run')).to_be_disabled()
        page.get_by_label('classification').check()
        expect(hint).to_contain_text('mmmeta demo configs/classification/')

        # Models trained in the meantime are listed when the page is reopened.
        cfg = Config.fromfile(root / 'configs/classification/poolformer_s12.py')
        save(tmp_path / 'work_dirs/classifier', cfg)
        page.reload()
        expect(page.get_by_label('classification')).to_be_checked()
        expect(hint).to_have_text('')
        expect(page.locator('#threshold')).to_be_hidden()
        upload(page, shapes / 'images/val/000001.jpg')
        page.click('#run')
        expect(page.locator('#status')).to_contain_text('224x224 as the model sees it')
        expect(page.locator('#top dt')).to_have_count(5)
    finally:
        stop(process, tmp_path)


def test_an_exported_file_needs_no_pytorch(browser, tmp_path, shapes):
    """The page of a file, and another file typed into it."""
    files = write_model(tmp_path, 'detection')
    assert main(['export', *files, '-o', str(tmp_path / 'detection.onnx')]) == 0
    shutil.copy(tmp_path / 'detection.onnx', tmp_path / 'other.onnx')
    code = (
        f'import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n'
        'from mmmeta.cli import main\nsys.exit(main(sys.argv[1:]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, 'demo', 'detection.onnx', '--no-browser'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / 'stderr.txt').open('w'),
        text=True,
    )
    try:
        page = browser.new_page()
        page.goto(address_of(process, tmp_path))
        expect(page.locator('#model input')).to_have_value('detection.onnx')
        upload(page, shapes / 'images/val/000001.jpg')
        page.click('#run')
        status = page.locator('#status')
        expect(status).to_contain_text(re.compile(r'ms on cpu.* 128x128 pixels\.'))
        set_threshold(page, 0)
        expect(page.locator('#summary')).to_contain_text('8 objects with a score above')
        assert picture(page).shape == (640, 640, 3)

        page.get_by_role('button', name='Another model').click()
        page.get_by_label('Config').fill('other.onnx')
        page.click('#add')
        expect(page.locator('#model input')).to_have_value('other.onnx')
        page.click('#run')
        expect(status).to_contain_text(' 128x128 pixels.')
        page.get_by_label('Config').fill('detection.py')
        page.click('#add')
        expect(status).to_contain_text('needs mmengine, which cannot be imported')
    finally:
        stop(process, tmp_path)


def test_an_occupied_port_is_one_line(capsys):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(['demo', '--no-browser', '--port', str(port)]) == 1
    assert capsys.readouterr().err == (
        f'mmmeta demo: port {port} is in use; choose another with --port, or leave '
        '--port out for the first that is free\n'
    )


def test_a_config_needs_a_checkpoint(capsys):
    assert main(['demo', 'config.py']) == 1
    assert 'mmmeta demo (NAME | FILE | CONFIG CHECKPOINT)' in capsys.readouterr().err
