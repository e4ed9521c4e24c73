"""What `mmmeta finetune` says when it cannot begin or go on: one line each."""

import errno
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from data_sets import making
from data_sets.making import text
from mmengine.runner import Runner
from tuning import tiny

from mmmeta.cli import main


def answer(capsys, *args: object) -> str:
    """Run the command, which fails; return its line."""
    capsys.readouterr()
    assert main(['finetune', *map(os.fspath, args)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix('mmmeta finetune: ')


@pytest.fixture
def yolo(tmp_path) -> Path:
    return making.yolo(tmp_path / 'yolo')


@pytest.fixture
def work(tmp_path) -> Path:
    return tmp_path / 'work'


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (['--method', 'mask_rcnn'], 'method mask_rcnn needs data for instances'),
        (['--backbone', 'caformer_s81'], "backbone 'caformer_s81' is unknown; nearest"),
        (['--weights', 'none.pth'], 'weights none.pth: no such file; expected zoo, '),
        (['--weights', 'a/none.pth'], 'weights a/none.pth: no such file'),
        (['--image-size', '20'], 'images of 20 pixels are too small; expected a side'),
        (['--image-size', '9', '9', '9'], '--image-size takes one or two numbers'),
        (['--resume'], '--resume needs --config FILE'),
        (['--config', 'c.py'], 'expected PATH, a data set, or --config FILE'),
    ],
)
def test_wrong_arguments(options, expected, yolo, work, capsys):
    assert answer(capsys, yolo, '--work-dir', work, *options).startswith(expected)
    assert not work.exists()


@pytest.mark.parametrize(
    'options', [['--method', 'yolox'], ['--epochs', '0'], ['--frozen-stages', '7']]
)
def test_arguments_that_are_none(options, yolo, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['finetune', str(yolo), *options])
    assert options[1] in capsys.readouterr().err.splitlines()[-1]


def test_data_with_errors(yolo, work, capsys):
    text(yolo / 'labels/train/0.txt', '7 0.5 0.5 0.1 0.1\n')
    text(yolo / 'labels/train/1.txt', '0 0.5 0.5 0.1 2.5\n')
    (yolo / 'images/val/0.jpg').write_bytes(b'none')
    line = answer(capsys, yolo, '--work-dir', work)
    assert 'has errors, and nothing was trained: ' in line
    for said in ('label', 'cannot be read', f'`mmmeta data {yolo}` shows them'):
        assert said in line
    assert not work.exists()


def test_data_that_are_none(tmp_path, work, capsys):
    assert answer(capsys, tmp_path / 'no').endswith('expected a data set')
    text(tmp_path / 'notes/a.txt', 'words')
    assert 'is no data set of a known format' in answer(capsys, tmp_path / 'notes')
    root = making.png(tmp_path / 'flat', making.some_values(0, 0))
    line = answer(capsys, root, '--work-dir', work)
    assert 'has one class, 0: a model for segmentation needs at least two' in line
    assert not work.exists()


def test_weights_without_a_network(yolo, work, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'empty'))
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    monkeypatch.setattr(time, 'sleep', lambda _: None)  # between attempts
    line = answer(capsys, yolo, '--work-dir', work)
    assert 'poolformer_s12' in line
    assert '`mmmeta download poolformer_s12.sail_in1k`' in line
    assert line.endswith('--weights none trains without it')
    assert (work / 'config.py').is_file()


def test_weights_of_another_model(yolo, work, capsys, tmp_path):
    key = 'backbone.stages.0.downsample.conv.weight'
    state = {key: torch.ones(1), 'bbox_head.x.weight': torch.ones(1)}
    torch.save({'state_dict': state}, tmp_path / 'w.pth')
    options = ['--weights', str(tmp_path / 'w.pth')]
    config = tiny.write(yolo, work, 'retinanet', *options)
    line = answer(capsys, '--config', config)
    assert f'{tmp_path}/w.pth' in line and 'backbone' in line
    text(tmp_path / 'v.pth', 'words')
    line = answer(capsys, yolo, '--weights', tmp_path / 'v.pth', '--work-dir', work)
    assert 'v.pth is a text file. Expected a checkpoint' in line


def test_configs_that_cannot_be_built(yolo, work, capsys):
    config = tiny.write(yolo, work, 'retinanet')
    config.write_text(f"{config.read_text()}model['neck']['in_channels'] = 1\n")
    assert f'the model of {config} cannot be built' in answer(
        capsys, '--config', config
    )
    (work / 'finetune_data/train.json').unlink()
    line = answer(capsys, '--config', config)
    assert 'train.json does not exist' in line
    assert 'no config file' in answer(capsys, '--config', work / 'none.py')


def test_too_little_memory(yolo, work, capsys, monkeypatch):
    def train(self: Runner) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')

    config = tiny.write(yolo, work, 'retinanet')
    monkeypatch.setattr(Runner, 'train', train)
    line = answer(capsys, '--config', config)
    assert line.startswith('the memory is not enough: pass a smaller --batch-size')


def test_a_full_disk(yolo, work, capsys, monkeypatch):
    config = tiny.write(yolo, work, 'retinanet')
    from mmengine.fileio import LocalBackend

    def put(self: LocalBackend, content: bytes, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(LocalBackend, 'put', put)
    capsys.readouterr()
    assert main(['finetune', '--config', str(config)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r'mmmeta finetune: .*No space left on device', line)


def test_an_interruption_says_how_to_go_on(yolo, work, tmp_path, warm_python):
    config = tiny.write(yolo, work, 'retinanet', '--epochs', '500')
    process = warm_python.start(
        *('finetune', '--config', config),
        code='import sys; from mmmeta.cli import main; sys.exit(main(sys.argv[1:]))',
        log=tmp_path / 'err',
    )
    while process.poll() is None and not (work / 'last_checkpoint').exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    lines = (tmp_path / 'err').read_text().splitlines()
    assert lines[-1] == (
        'mmmeta finetune: interrupted; to go on: mmmeta finetune --config '
        f'{config} --resume'
    )
    assert all(line.startswith('epoch ') for line in lines[:-1]), lines


def test_an_early_end_is_said(yolo, work, capsys):
    config = tiny.write(yolo, work, 'retinanet', '--epochs', '9')
    more = (
        'default_hooks["early_stopping"].update(patience=1, min_delta=2.0)\n'
        'train_cfg["val_interval"] = 1\n'
    )
    config.write_text(config.read_text() + more)
    capsys.readouterr()
    assert tiny.train(config) == 0
    *_, before, last = capsys.readouterr().err.splitlines()
    assert re.match(r'epoch \d of 9: coco/bbox_mAP', before)
    assert last == 'stopped early: the score does not improve any more'
