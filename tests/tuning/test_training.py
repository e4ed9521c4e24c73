"""`mmmeta finetune` to the end, and what its last lines say to do next."""

import csv
import importlib.util
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import making
from tuning import tiny

import mmmeta
from mmmeta.cli import main
from mmmeta.commands.demo.found import find_models
from mmmeta.data import read_data
from mmmeta.data.picture import colors_of
from mmmeta.datasets._scene import CLASSES

ROOT = Path(__file__).resolve().parents[2]
SHAPES = sorted(CLASSES)


@dataclass
class Run:
    """A finished training."""

    work: Path
    config: Path
    out: str
    err: str

    @property
    def checkpoint(self) -> Path:
        return Path(shlex.split(self.command('predict'))[3])

    def command(self, name: str) -> str:
        return re.search(rf'^{name}: +(.*)$', self.out, re.M)[1]


@pytest.fixture(scope='module')
def trained(formats, tmp_path_factory):
    """A function that returns a training, of each method once."""
    runs: dict[str, Run] = {}

    def get(method: str, capsys) -> Run:
        if method not in runs:
            kind = {'semantic_fpn': 'png', 'classifier': 'folders'}.get(method, 'coco')
            work = tmp_path_factory.mktemp(method) / 'my work'
            config = tiny.write(formats(kind), work, method)
            capsys.readouterr()
            assert tiny.train(config) == 0
            runs[method] = Run(work, config, *capsys.readouterr())
        return runs[method]

    return get


METHODS = ['retinanet', 'mask_rcnn', 'semantic_fpn', 'classifier']


@pytest.fixture(params=METHODS)
def run(request, trained, capsys) -> Run:
    return trained(request.param, capsys)


@pytest.fixture
def image(formats) -> str:
    return str(next((formats('coco') / 'val').glob('*.jpg')))


def test_a_line_for_each_validation_and_the_commands(run):
    lines = run.err.splitlines()
    assert len(lines) == 2, run.err
    for number, line in enumerate(lines, 1):
        assert re.match(rf'epoch {number} of 2: (coco/|mIoU |accuracy/top1 )', line)
    names = [line.split(':')[0] for line in run.out.splitlines()]
    assert [name.split(' (')[0] for name in names] == [
        'best checkpoint',
        *('predict', 'export', 'go on'),
    ]
    kept = sorted(path.name for path in run.work.glob('*.pth'))
    assert kept == [run.checkpoint.name, 'epoch_2.pth']
    (log,) = run.work.glob('*/*.log')
    assert 'Epoch(train) [2][3/3]' in log.read_text()


def test_predictions_have_the_names(run, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(run.command('predict').replace('IMAGE...', shlex.quote(image)))
    assert main(words[1:]) == 0
    out = tmp_path / 'predictions'
    if run.config.parent.parent.name.startswith('classifier'):
        rows = list(csv.DictReader((out / 'top5.csv').open()))
        assert {row['class'] for row in rows} <= set(SHAPES) and len(rows) == 5
    elif run.config.parent.parent.name.startswith('semantic'):
        rows = list(csv.reader((out / 'classes.csv').open()))
        assert {'background', *SHAPES} <= {cell for row in rows for cell in row}
    else:
        told = json.loads((out / 'images.json').read_text())['categories']
        assert [row['name'] for row in told] == SHAPES
        assert json.loads((out / 'detections.json').read_text())


def test_info_says_names_and_colors(run, capsys):
    capsys.readouterr()
    assert main(['info', str(run.checkpoint)]) == 0
    printed = capsys.readouterr().out
    found = re.findall(r'^ +(\d+) +(\w+)  #(\w{6})$', printed, re.M)
    names = SHAPES if 'background' not in printed else ['background', *SHAPES]
    assert [(int(i), name) for i, name, _ in found] == list(enumerate(names))
    kind = 'png' if 'background' in names else 'coco'
    assert len({color for _, _, color in found}) == len(names), kind
    assert re.search(r'^backbone +PoolFormer', printed, re.M)


def test_the_colors_are_those_of_mmmeta_data(trained, formats, capsys):
    run = trained('retinanet', capsys)
    model = mmmeta.load(str(run.config), str(run.checkpoint))
    colors = colors_of(read_data(formats('coco')))
    np.testing.assert_array_equal(model.palette, colors)
    assert list(model.classes) == SHAPES


def test_the_exported_file_has_the_names(trained, image, tmp_path, monkeypatch, capsys):
    from mmmeta.runtime import read_metadata

    run = trained('classifier', capsys)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(run.command('export'))[1:]) == 0
    names = read_metadata(tmp_path / 'model.onnx')['classes']
    assert json.loads(names) == SHAPES


def test_explain_demo_and_plot_take_it(trained, image, tmp_path, monkeypatch, capsys):
    run = trained('classifier', capsys)
    monkeypatch.chdir(tmp_path)
    model = f'{run.config}={run.checkpoint}'
    assert main(['explain', image, '--models', model, '--out', 'e.png']) == 0
    printed = capsys.readouterr().out
    assert any(name in printed for name in SHAPES), printed
    assert main(['plot', str(run.work), '--out', 'p.png']) == 0
    assert (tmp_path / 'p.png').stat().st_size
    models, _ = find_models(run.work.parent)
    assert [m.config for m in models] == [str(run.config)]


def test_the_tools_go_on(trained, warm_python, capsys):
    run = trained('retinanet', capsys)
    before = run.config.read_text()
    result = warm_python.run(
        *(ROOT / 'tools/train.py', run.config, '--work-dir', run.work, '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=3'),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'resumed epoch: 2, iter: 6' in result.stdout + result.stderr
    assert (run.work / 'epoch_3.pth').is_file()
    assert run.config.read_text() == before  # still the short one
    assert 'Epoch(train) [1]' not in result.stdout


def test_a_stock_tool_takes_the_config(formats, warm_python, tmp_path):
    """It does not import mmmeta before it reads the config."""
    config = tiny.write(formats('yolo'), tmp_path / 'work', 'retinanet')
    (folder,) = importlib.util.find_spec('mmdet').submodule_search_locations
    tool = Path(folder, '.mim/tools/train.py')
    result = warm_python.run(tool, config, '--work-dir', tmp_path / 'other')
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / 'other/epoch_2.pth').is_file()


def test_a_finished_run_is_not_overwritten_and_goes_on(trained, capsys, formats):
    run = trained('classifier', capsys)
    for args in (
        ['--config', run.config],
        [formats('folders'), '--work-dir', run.work],
    ):
        assert main(['finetune', *map(os.fspath, args)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert 'has checkpoints of another run' in line
        assert run.command('go on') in line
    before = run.config.read_text()
    assert before.startswith('"""Classifier')  # not what MMEngine makes of it
    run.config.write_text(before.replace('max_epochs = 2', 'max_epochs = 3'))
    assert main(shlex.split(run.command('go on'))[1:]) == 0
    printed = capsys.readouterr()
    run.config.write_text(before)
    # The last checkpoint was saved before its validation, which is made up for.
    again, line = printed.err.splitlines()
    assert again.startswith('epoch 2 of 3: ')
    assert line.startswith('epoch 3 of 3: accuracy/top1')


def test_heads_of_other_classes_are_left_out(trained, tmp_path, capsys):
    run = trained('retinanet', capsys)
    root = making.yolo(tmp_path / 'data')
    work = tmp_path / 'work'
    (weights,) = run.work.glob('best_*.pth')
    config = tiny.write(root, work, 'retinanet', '--weights', str(weights))
    text = config.read_text()
    assert f'load_from = {str(weights)!r}' in text
    assert 'retinanet_poolformer_s12_shapes.py' in text  # its neck has norms
    capsys.readouterr()
    assert tiny.train(config) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith('not in load_from, ')
    assert re.match(r'  bbox_head: 2 of \d+ \(bbox_head\.retina_cls\.', said[1])
    assert said[2].startswith('epoch 1 of 2:')
    begun = torch.load(weights, weights_only=False)['state_dict']
    ended = torch.load(work / 'epoch_2.pth', weights_only=False)['state_dict']
    key = 'backbone.stages.0.downsample.conv.weight'
    assert (begun[key] - ended[key]).abs().max() < 0.1 * begun[key].abs().max()
    key = 'bbox_head.retina_cls.weight'
    assert ended[key].shape[0] == begun[key].shape[0] // 3  # 2 classes, not 6


@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_batches_without_objects(method, tmp_path):
    root = making.coco(tmp_path / 'data')
    for file in root.glob('annotations/*.json'):
        content = json.loads(file.read_text())
        rows = content['annotations'][2:]  # none of the first image
        for row in rows:
            row['segmentation'] = [making.OUTLINE]
        file.write_text(json.dumps(dict(content, annotations=rows)))
    config = tiny.write(root, tmp_path / 'work', method, '--batch-size', '1')
    assert tiny.train(config) == 0
    (log,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row['loss'] for row in rows if 'loss' in row]
    assert len(losses) == 4 and all(0 <= loss < 100 for loss in losses)
    boxes = [row['loss_bbox'] for row in rows if 'loss_bbox' in row]
    assert 0 in boxes and max(boxes) > 0


def test_maps_of_several_sizes(tmp_path):
    root = making.png(tmp_path / 'data')
    for image in root.glob('images/*/1.jpg'):
        making.image(image, (80, 30))
        values = np.tile(making.some_values(0, 1, 2), (1, 2))
        making.a_map(root / 'annotations' / image.parent.name / '1.png', values)
    assert tiny.train(tiny.write(root, tmp_path / 'work', 'semantic_fpn')) == 0
    assert list((tmp_path / 'work').glob('best_*.pth'))
