"""The demo at reduced size, from the data to the picture."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools/demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo


def test_demo_at_a_reduced_size(warm_python, tmp_path, monkeypatch, capfd):
    """Its tools, which would import for most of their time, are forks."""
    demo = load_demo()

    def run(command: list[str], cwd: Path, env: dict) -> subprocess.CompletedProcess:
        assert command[0] == sys.executable
        if command[1] == '-m':
            return subprocess.run(command, cwd=cwd, env=env)
        done = warm_python.run(*command[1:], cwd=cwd, env=env)
        print(done.stdout)
        print(done.stderr, file=sys.stderr)
        return done

    monkeypatch.setattr(demo, 'subprocess', SimpleNamespace(run=run))
    arguments = [
        '--short',
        *('--data', str(tmp_path / 'shapes'), '--num-train', '8', '--num-val', '3'),
        *('--work-dir', str(tmp_path / 'work'), '--images', '3'),
    ]
    monkeypatch.setattr(sys, 'argv', ['tools/demo.py', *arguments])
    demo.main()
    printed = capfd.readouterr().out
    for text in (
        '== 1/4 data',
        'iteration 2 of 2: ',
        'Average Precision  (AP) @[ IoU=0.50      | area=   all',
        'its training is too short to detect',
        'Picture:',
    ):
        assert text in printed, text
    assert (tmp_path / 'work/epoch_1.pth').is_file()
    assert json.loads((tmp_path / 'work/predictions.bbox.json').read_text())
    picture = cv2.imread(str(tmp_path / 'work/predictions.png'))
    assert picture.shape == (2 * 536, 4 * 512, 3)  # two rows of two pairs
    assert (picture[536:, 1024:] == 255).all()  # the fourth pair is blank
    assert (picture[536:, :1024] != 255).any()


def test_picture_shows_truth_beside_confident_predictions(tmp_path, shapes):
    demo = load_demo()
    truth = shapes / 'annotations/instances_val.json'
    boxes = json.loads(truth.read_text())['annotations']
    found = [
        dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'])
        for a in boxes
    ]
    pictures = []
    for score in (0.9, 0.1):
        for item in found:
            item['score'] = score
        (tmp_path / 'found.json').write_text(json.dumps(found))
        out = tmp_path / f'{score}.png'
        demo.draw_comparison(
            truth, tmp_path / 'found.json', shapes / 'images/val', out, 2
        )
        pictures.append(cv2.imread(str(out)))
    confident, unsure = pictures
    half = confident.shape[1] // 4
    assert np.array_equal(confident[:, :half], unsure[:, :half])  # the truth
    assert not np.array_equal(confident[:, half : 2 * half], unsure[:, half : 2 * half])
