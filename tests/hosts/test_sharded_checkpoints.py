"""`fsdp.sharded_checkpoints`: each process writes its own part of a checkpoint."""

import shutil
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import equal
from steps import CONFIG

from mmmeta.cli import main
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.scheme import load_from_local

PARTED = """
_base_ = 'recorded.py'
model = dict(families=['UniFormer'], norm_eval=True)  # it has buffers, too
train_cfg = dict(max_iters=4)
train_dataloader = dict(batch_size=3)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001))
custom_hooks = [dict(type='SignalHook', at=-1)]
default_hooks = dict(_delete_=True, checkpoint=dict(
    type='mmmeta.CheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=2))
fsdp = dict(sharded_checkpoints=True)
"""
FIRST, LAST = 'whole/iter_2.dcp', 'whole/iter_4.dcp'


@pytest.fixture(scope='module')
def written(shapes, warm_python, tmp_path_factory) -> Path:
    """A folder with configs and the run `whole`, of two processes."""
    folder = tmp_path_factory.mktemp('parts')
    small_runs.write_configs(folder, shapes)
    (folder / 'recorded.py').write_text(CONFIG)
    (folder / 'parted.py').write_text(PARTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        statuses, log = train(warm_python, 2, 'whole')
    assert statuses == [0, 0], log
    return folder


@pytest.fixture
def folder(written, monkeypatch) -> Path:
    monkeypatch.chdir(written)
    return written


def train(python, count: int, work: str, *args: str) -> tuple[list[int], str]:
    return small_runs.processes(python, count, 'parted.py', '--work-dir', work, *args)


def assert_near(one, other) -> None:
    """Sums over other processes are rounded otherwise."""
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, dict):
            assert_near(value, other[key])
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], atol=1e-5, rtol=1e-3)


def test_another_number_of_processes_continues(folder, warm_python, monkeypatch):
    """Of two, three continue and are stopped, then two; and one, without shards."""
    # A crash has left half a folder, and a whole one that was being replaced.
    shutil.copytree(FIRST, 'others/iter_2.dcp.old')
    shutil.copytree(FIRST, 'others/iter_4.dcp.partial')
    Path('others/last_checkpoint').write_text('others/iter_2.dcp')
    options = ['--resume', '--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=1']
    stop = 'custom_hooks.0.at=2'
    statuses, log = train(warm_python, 3, 'others', *options, stop)
    assert statuses == [75] * 3, log
    names = ['interrupted.dcp', 'iter_2.dcp']
    assert sorted(p.name for p in Path('others').glob('i*')) == names
    statuses, log = train(warm_python, 2, 'others', *options)
    assert statuses == [0, 0], log
    assert [p.name for p in Path('others').glob('i*')] == ['iter_4.dcp']
    small_runs.train(monkeypatch, 'parted', 'alone', '--resume', FIRST)
    expected = load_from_local(LAST)
    assert len(list(Path(LAST).glob('*.safetensors'))) == 2
    for path in ('others/iter_4.dcp', 'alone/iter_4.pth'):
        found = load_from_local(path)
        assert found['meta']['iter'] == 4
        for part in ('state_dict', 'optimizer'):
            assert_near(found[part], expected[part])


def test_it_becomes_an_ordinary_checkpoint(folder, capsys):
    assert main(['convert', LAST, 'one.pth']) == 0
    found, expected = small_runs.state('one.pth'), load_from_local(LAST)
    assert list(found) == list(expected)
    for part in ('state_dict', 'optimizer'):
        assert equal(found[part], expected[part])
    assert len(found['optimizer']['state']) == len(found['state_dict']) - sum(
        'running' in k or 'tracked' in k for k in found['state_dict']
    )
    # A folder is read wherever a file is.
    assert main(['info', LAST]) == 0
    assert f'in {len(found["state_dict"])} tensors' in capsys.readouterr().out
    words = ['--to', 'mmmeta', '--prefix', 'backbones.0.']
    assert main(['convert', LAST, 'weights.pth', *words]) == 0


def test_weights_that_are_no_numbers_are_not_saved(folder, warm_python):
    optimizer = 'optim_wrapper.optimizer'
    options = [f'{optimizer}.lr=3e37', f'{optimizer}.weight_decay=11.3']
    options += ['default_hooks.checkpoint.interval=1']
    statuses, log = train(warm_python, 2, 'infinite', '--cfg-options', *options)
    assert statuses == [1, 1]
    assert 'error: after iteration 1, ' in log
    assert ' weights are no numbers (backbones.0.' in log
    assert not list(Path('infinite').glob('*.dcp'))


@pytest.mark.parametrize('change', ['missing', 'short', 'none', 'foreign', 'damaged'])
def test_a_folder_that_is_not_complete(folder, change, tmp_path):
    shutil.copytree(LAST, tmp_path / 'x.dcp')
    part, *_ = sorted((tmp_path / 'x.dcp').glob('*.safetensors'))
    size = part.stat().st_size
    message = f'{tmp_path}/x.dcp is not complete: {part.name} has '
    if change == 'missing':
        part.unlink()
        message += f'no bytes, expected {size}'
    elif change == 'short':
        part.write_bytes(part.read_bytes()[:-1])
        message += f'{size - 1} bytes, expected {size}'
    elif change == 'none':
        (tmp_path / 'x.dcp/run.pth').unlink()
        message = 'x.dcp/run.pth does not exist'
    elif change == 'foreign':
        shutil.copy(part, tmp_path / 'x.dcp/other.safetensors')
        message = f'other.safetensors has {size} bytes, expected no'
    else:
        part.write_bytes(bytes(size))
        message = 'x.dcp is damaged or not a checkpoint'
    with pytest.raises(CheckpointError) as error:
        load_from_local(f'{tmp_path}/x.dcp')
    assert message in str(error.value)
    assert '\n' not in str(error.value)
