"""`mmmeta plot` on logs of real training runs, and their TensorBoard files."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmmeta.cli import main
from mmmeta.commands.plot import curves

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
_base_ = {base!r}
train_dataloader = dict(batch_size=4, dataset=dict(data_root={data!r}))
val_dataloader = dict(dataset=dict(data_root={data!r}))
model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1),
    dims=(16, 16, 16, 16))), neck=dict(in_channels=[16, 16, 16, 16], out_channels=16))
default_hooks = dict(logger=dict(interval=2))
"""
DETECTION = """
model.update(bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))
model.update(test_cfg=dict(score_thr=0.0))  # without a box there is no metric
val_evaluator = dict(ann_file={ann!r})
train_cfg = dict(max_epochs=2, val_interval=1)
"""
SEGMENTATION = """
model.update(decode_head=dict(in_channels=[16] * 4, channels=16))
train_cfg = dict(max_iters=6, val_interval=3)
"""


def train(folder: Path, *options: str) -> Path:
    """Call `tools/train.py` in this process, to save the time of its imports."""
    work = folder / 'work'
    number = len([path for path in work.glob('*') if path.is_dir()])
    args = [folder / 'config.py', '--work-dir', work, *options]
    # MMEngine caches visualizers by name.
    args += ['--cfg-options', f'visualizer.name={folder.name}_{number}']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['train.py', *map(str, args)])
        runpy.run_path(str(ROOT / 'tools/train.py'))['main']()
    return work


def write_config(folder: Path, kind: str, name: str, shapes: Path, more: str) -> None:
    values = dict(
        base=str(ROOT / f'configs/{kind}/{name}_poolformer_s12_shapes.py'),
        data=f'{shapes}/',
        ann=f'{shapes}/annotations/instances_val.json',
    )
    (folder / 'config.py').write_text((SMALL + more).format(**values))


@pytest.fixture(scope='module')
def detection(shapes, tmp_path_factory) -> Path:
    """A work folder: 24 images in batches of 4, two epochs, resumed for a third."""
    folder = tmp_path_factory.mktemp('detection')
    write_config(folder, 'detection', 'retinanet', shapes, DETECTION)
    train(folder, '--tensorboard')
    with (folder / 'config.py').open('a') as file:
        file.write("train_cfg['max_epochs'] = 3\n")
    return train(folder, '--resume')


@pytest.fixture(scope='module')
def segmentation(shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('segmentation')
    write_config(folder, 'segmentation', 'semantic_fpn', shapes, SEGMENTATION)
    return train(folder, '--tensorboard')


@pytest.mark.slow
def test_tensorboard_has_the_scalars(detection, segmentation):
    for work, metric in ((detection, 'coco/bbox_mAP'), (segmentation, 'mIoU')):
        first = min(path for path in work.iterdir() if path.is_dir())
        events = EventAccumulator(str(first / 'vis_data')).Reload()
        tags = events.Tags()['scalars']
        assert {'loss', 'lr', metric} <= set(tags)
        lines = (first / 'vis_data/scalars.json').read_text().splitlines()
        logged = [json.loads(line) for line in lines]
        logged = {line['step']: line['loss'] for line in logged if 'loss' in line}
        found = {event.step: event.value for event in events.Scalars('loss')}
        assert found == pytest.approx(logged, rel=1e-6)
        assert len(found) >= 3


@pytest.mark.slow
def test_a_resumed_training_is_one_run(detection):
    series = curves.read_run(detection).series
    assert series['loss'].x == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert series['coco/bbox_mAP'].x == [6, 12, 18]
    assert series['coco/bbox_mAP'].validation
    alone = curves.read_run(max(path for path in detection.iterdir() if path.is_dir()))
    assert alone.series['loss'].x == [14, 16, 18]
    assert alone.series['loss'].y == series['loss'].y[-3:]


@pytest.mark.slow
def test_iterations_stay_as_they_are(segmentation):
    series = curves.read_run(segmentation).series
    assert series['loss'].x[-3:] == [2, 4, 6]
    assert series['mIoU'].x == [3, 6]


@pytest.mark.slow
def test_several_runs_in_one_figure(detection, segmentation, tmp_path, capsys):
    out = tmp_path / 'new' / 'v1.5'
    assert main(['plot', str(detection), str(segmentation), '--out', str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f'wrote {out}.png\nwrote {out}.svg\n'
    assert printed.err == ''
    height, width, _ = cv2.imread(f'{out}.png').shape
    assert width > 1000 and height > 600
    texts = set(re.findall(r'>([^<>\n]+)</text>', Path(f'{out}.svg').read_text()))
    # Both work folders are named `work`, so the paths distinguish them.
    assert {str(detection), str(segmentation), 'iteration'} <= texts
    panels = {'loss', 'loss_cls', 'loss_bbox', 'lr', 'coco/bbox_mAP', 'mIoU'}
    assert panels <= texts
    assert not {'time', 'grad_norm', 'coco/bbox_mAP_50', 'aAcc'} & texts


# -- logs in MMEngine's format, where training would take too long - ------------


def write_log(work: Path, start: str, records: list[dict], config: str = '') -> Path:
    folder = work / start / 'vis_data'
    folder.mkdir(parents=True)
    file = folder / 'scalars.json'
    file.write_text(''.join(json.dumps(record) + '\n' for record in records))
    if config:
        (folder / 'config.py').write_text(config)
    return file


def step(number: int, loss: float = 1.0, epoch: int | None = None) -> dict:
    place = {} if epoch is None else dict(epoch=epoch)
    return dict(lr=0.1, loss=loss, loss_cls=loss, **place, iter=number, step=number)


def test_epochs_whose_last_steps_are_not_logged(tmp_path):
    """100 steps per epoch, every 30th logged; the third run counts iterations."""
    records = []
    for epoch in (1, 2, 3):
        records += [step(100 * (epoch - 1) + i, 1.0, epoch) for i in (30, 60, 90)]
        records.append({'coco/bbox_mAP': epoch / 10, 'time': 0.1, 'step': epoch})
    records.append({'coco/bbox_mAP': 0.5, 'step': 290})
    write_log(tmp_path, '20260101_000000', records)
    series = curves.read_run(tmp_path).series
    assert series['coco/bbox_mAP'].x == [100, 200, 300, 290]
    assert series['coco/bbox_mAP'].y == [0.1, 0.2, 0.3, 0.5]


def test_a_repeated_training_is_the_newest(tmp_path):
    write_log(tmp_path, '20260101_000000', [step(1), step(50), step(100)])
    again = [step(10, 3.0), step(20, 2.0)]
    write_log(tmp_path, '20260102_000000', again, 'a = 1\nresume = False\n')
    write_log(tmp_path, '20260103_000000', [])  # killed before its first line
    (tmp_path / '20260104_000000').mkdir()  # a test
    assert curves.read_run(tmp_path).series['loss'].x == [10, 20]


def test_where_logs_overlap_the_resumed_one_holds(tmp_path):
    write_log(tmp_path, '20260101_000000', [step(i, 1.0) for i in (10, 20, 30, 40)])
    write_log(tmp_path, '20260102_000000', [step(30, 2.0)], 'resume = True\n')
    write_log(tmp_path, '20260103_000000', [step(30, 3.0), step(40, 3.0)])
    loss = curves.read_run(tmp_path).series['loss']
    assert loss.x == [10, 20, 30, 40]
    assert loss.y == [1.0, 1.0, 3.0, 3.0]


def test_a_cut_off_last_line_is_left_out(tmp_path, capsys):
    file = write_log(tmp_path, '20260101_000000', [step(1), step(2), step(3)])
    text = file.read_text()
    file.write_text(text[:-20])
    assert curves.read_run(tmp_path).series['loss'].x == [1, 2]
    file.write_text(text.replace('"iter": 2', '"iter": '))
    assert main(['plot', str(tmp_path)]) == 1
    assert f'{file}, line 2: not JSON' in capsys.readouterr().err


def test_keys_scale_and_smoothing(tmp_path):
    losses = [5.0, 1.0, 4.0, float('nan'), 2.0, 0.1]
    records = [step(10 * i, loss) for i, loss in enumerate(losses, 1)]
    write_log(tmp_path / 'run', '20260101_000000', records)
    run = curves.read_run(tmp_path / 'run')
    assert curves.choose_keys([run]) == ['loss', 'lr']  # a single term equals the sum
    assert curves.choose_keys([run], ['lr', 'loss*']) == ['lr', 'loss', 'loss_cls']
    figure = curves.draw([run], ['loss', 'lr'], window=3, log=True)
    loss, rate = figure.axes
    assert loss.get_yscale() == rate.get_yscale() == 'log'
    smoothed, raw = (list(line.get_ydata()) for line in loss.lines)
    assert raw == pytest.approx(losses, nan_ok=True)
    assert smoothed == pytest.approx([5, 10 / 3, 2.5, 3, 1.05, 0.1])
    assert [list(line.get_ydata()) for line in rate.lines] == [[0.1] * 6]


def test_many_runs_look_different(tmp_path):
    write_log(tmp_path / 'run', '20260101_000000', [step(1), step(2)])
    runs = [curves.read_run(tmp_path / 'run', f'run {i}') for i in range(20)]
    (axis,) = curves.draw(runs, ['loss']).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 20


def test_one_picture_is_the_same_for_the_same_logs(tmp_path):
    write_log(tmp_path / 'run', '20260101_000000', [step(1), step(2)])
    for name in ('a.svg', 'b.svg'):
        main(['plot', str(tmp_path / 'run'), '--out', str(tmp_path / name)])
    assert (tmp_path / 'a.svg').read_bytes() == (tmp_path / 'b.svg').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.svg', 'b.svg', 'run']


def test_a_full_disk_leaves_no_half_picture(tmp_path, limit, capsys):
    write_log(tmp_path / 'run', '20260101_000000', [step(1), step(50), step(100)])
    limit(8000)
    assert main(['plot', str(tmp_path / 'run'), '--out', str(tmp_path / 'x')]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"File too large: '{tmp_path}/x.png'")
    assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['nowhere'], 'no folder nowhere; expected the work folder of a training'),
        (['killed'], 'no log in killed: expected lines in killed/TIME/vis_data/'),
        (['run', '--keys', 'mIoU'], "no key 'mIoU'; the log has lr, loss, loss_cls"),
        (['run', '--smooth', '0'], '--smooth 0: expected 1 or more logged values'),
        (['run', '--out', 'run'], '--out run is a folder'),
    ],
)
def test_wrong_calls_get_one_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / 'run', '20260101_000000', [step(1)])
    write_log(tmp_path / 'killed', '20260101_000000', [])
    assert main(['plot', *args]) == 1
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith(f'mmmeta plot: {message}')
    assert printed.err.count('\n') == 1


def test_tensorboard_missing_names_the_extra(tmp_path):
    (tmp_path / 'tensorboard').mkdir()
    (tmp_path / 'tensorboard/__init__.py').write_text('raise ImportError("broken")')
    code = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'from mmengine.config import Config\n'
        'from mmmeta.hosts.config import set_tensorboard\n'
        'set_tensorboard(Config(dict()))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        '--tensorboard needs tensorboard, which cannot be imported (broken): '
        "pip install 'mmmeta-backbones[tensorboard]'"
    )
