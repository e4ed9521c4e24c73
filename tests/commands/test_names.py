"""Published models by name, from the published addresses."""

import io
import json
import re
import runpy
import shlex

import numpy as np
import pytest
import torch
from configs_of import build
from PIL import Image
from weights.internet import serve

from mmmeta.cli import main
from mmmeta.weights.names import find

DETECTOR, SEGMENTOR = 'retinanet_poolformer_s12', 'upernet_uniformer_small_global'


@pytest.fixture(scope='module')
def internet():
    """Serves two files, whose weights are drawn."""
    with serve() as running:
        for name in (DETECTOR, SEGMENTOR):
            row = find(name)
            model = build(*row.config.removesuffix('.py').split('/'))
            model = model.to_empty(device='cpu')
            torch.manual_seed(0)
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    value.normal_(0, 0.02)
                    if 'running_var' in key or ('norm' in key and 'weight' in key):
                        value.add_(1)
                else:
                    value.zero_()
            content = io.BytesIO()
            torch.save({'state_dict': model.state_dict()}, content)
            source = row.sources[0]
            address = source.url.removeprefix('https://')
            if source.drive_id:
                address = f'drive.google.com/{source.drive_id}'
            running.files[address] = content.getvalue()
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, internet, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path_factory.getbasetemp() / 'names'  # downloaded once
    monkeypatch.setenv('MMMETA_HOME', str(cache))
    noise = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(noise).save('photo.jpg')
    return tmp_path


def test_readmes_first_commands(here, root, monkeypatch):
    """As written, but with the one of the detectors that is served here."""
    readme = (root / 'README.md').read_text().split('## Two commands')[0]
    commands = re.findall(r'^mmmeta (predict .*?) +#', readme, re.M)
    assert len(commands) == 2 and SEGMENTOR in commands[1]
    commands[0] = commands[0].replace('mask_rcnn_uniformer_small_ms_3x', DETECTOR)
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert (here / 'predictions/vis/photo.jpg').is_file()
    images = json.loads((here / 'predictions/images.json').read_text())
    assert images['images'][0]['file_name'] == 'photo.jpg'
    assert images['categories'][0] == dict(id=1, name='person')
    with Image.open(here / 'predictions/maps/photo.png') as picture:
        assert (picture.size, picture.mode) == ((128, 96), 'P')
        assert picture.getpalette()[:6] == [120, 120, 120, 180, 120, 120]  # ADE20K's


def test_the_annotator_of_controlnet(here, root):
    """docs/trained_models.md, as written."""
    text = (root / 'docs/trained_models.md').read_text()
    code = text.split('## Segmentation maps')[1].split('```python\n')[1].split('```')[0]
    exec(code, {})
    with Image.open('map.png') as picture:
        colors = {color for _, color in picture.getcolors(1 << 16)}
        assert picture.size == (128, 96)
    from mmseg.datasets import ADE20KDataset

    assert colors <= set(map(tuple, ADE20KDataset.METAINFO['palette']))


def test_validate_and_the_tool_measure_the_same(here, root, monkeypatch, capsys):
    """With some of the model's own detections as the truth, so not zero."""
    (here / 'coco/val2017').mkdir(parents=True)
    for number in range(2):
        noise = np.random.RandomState(number).randint(0, 256, (96, 128, 3), np.uint8)
        Image.fromarray(noise).save(here / f'coco/val2017/{number}.png')
    options = ['test_dataloader.dataset.pipeline.1.scale=(128,96)']
    options = ['--cfg-options', 'model.test_cfg.score_thr=0.0', *options]
    assert main(['predict', DETECTOR, 'coco/val2017', '--no-vis', *options]) == 0
    truth = json.loads((here / 'predictions/images.json').read_text())
    found = json.loads((here / 'predictions/detections.json').read_text())
    for number, one in enumerate(found[::7], 1):
        area = one['bbox'][2] * one['bbox'][3]
        truth['annotations'].append(one | dict(id=number, area=area, iscrowd=0))
    (here / 'coco/annotations').mkdir()
    (here / 'coco/annotations/instances_val2017.json').write_text(json.dumps(truth))
    row = find(DETECTOR)
    # First, as MMEngine would go on with the temporary folder of the command.
    words = [str(root / 'configs' / row.config), f'mmmeta://{DETECTOR}']
    words += ['--work-dir', 'work', *options, 'test_dataloader.num_workers=0']
    words += ['test_dataloader.persistent_workers=False']
    words += ['test_dataloader.dataset.data_root=coco/']
    words += ['test_evaluator.ann_file=coco/annotations/instances_val2017.json']
    monkeypatch.setattr('sys.argv', ['test.py', *words])
    runpy.run_path(str(root / 'tools/test.py'))['main']()
    (file,) = (here / 'work').glob('*/2*.json')
    measured = json.loads(file.read_text().splitlines()[-1])['coco/bbox_mAP']
    capsys.readouterr()
    assert main(['validate', DETECTOR, 'coco', '--workers', '0', *options]) == 1
    out = capsys.readouterr().out
    assert f'{row.test}, changed by --cfg-options\n' in out
    (shown,) = re.findall(r'^box AP +(\S+) +36.2  off by more than 0.3$', out, re.M)
    assert 0 < float(shown) == round(100 * measured, 2)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            'predict retinanet_poolformer_s13 photo.jpg',
            'nearest: retinanet_poolformer_s',
        ),
        (
            f'predict {DETECTOR}',
            'no input: mmmeta predict (NAME | FILE | CONFIG CHECKPOINT) INPUT',
        ),
        ('predict x.py', 'x.py needs a checkpoint: mmmeta predict'),
        ('demo x.py', 'x.py needs a checkpoint: mmmeta demo'),
        (f'demo {DETECTOR} more', "unexpected 'more'; expected mmmeta demo"),
        ('explain photo.jpg --models retinanet_poolformer_s13', 'unknown model'),
        ('validate retinanet_poolformer_s12', 'data/coco'),
        ('validate retinanet_poolformer_s12 nowhere', 'no folder nowhere'),
        ('download no_such_model', 'no published checkpoint is called'),
    ],
)
def test_what_is_wrong_is_one_line(words, message, capsys):
    assert main(words.split()) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith('mmmeta ') and '\n' not in error


def test_download_in_advance(here, capsys, monkeypatch):
    assert main(['download', DETECTOR, '--to', 'weights']) == 0
    assert capsys.readouterr().out == f'{DETECTOR}: weights/{DETECTOR}.pth\n'
    assert (here / 'weights' / f'{DETECTOR}.pth').is_file()
