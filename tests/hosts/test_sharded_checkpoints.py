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
FIRST, STOPPED = 'work/iter_2.dcp', 'work/interrupted.dcp'


@pytest.fixture(scope='module')
def written(shapes, warm_python, tmp_path_factory) -> Path:
    """A folder with configs and the run `work`, of two processes, which stopped."""
    folder = tmp_path_factory.mktemp('parts')
    small_runs.write_configs(folder, shapes)
    (folder / 'recorded.py').write_text(CONFIG)
    (folder / 'parted.py').write_text(PARTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stop = ('--cfg-options', 'custom_hooks.0.at=2')
        statuses, log = train(warm_python, 2, 'work', *stop)
    assert statuses == [75, 75], log
    assert (folder / 'work/last_checkpoint').read_text().endswith('interrupted.dcp')
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
            torch.testing.assert_close(value, other[key], atol=1e-4, rtol=1e-3)


def test_another_number_of_processes_continues(folder, warm_python, monkeypatch):
    """Of two, three and one, without shards, end as one that was never stopped."""
    # A crash has left half a folder, and a whole one that was being replaced.
    shutil.copytree(STOPPED, 'three/interrupted.dcp.old')
    shutil.copytree(FIRST, 'three/iter_2.dcp')
    shutil.copytree(FIRST, 'three/iter_4.dcp.partial')
    Path('three/last_checkpoint').write_text('three/interrupted.dcp')
    options = ['--resume', '--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=1']
    # After its last iteration, which is saved anyway.
    statuses, log = train(warm_python, 3, 'three', *options, 'custom_hooks.0.at=3')
    assert statuses == [75] * 3, log
    found = sorted(path.name for path in Path('three').glob('i*'))
    assert found == ['interrupted.dcp', 'iter_4.dcp']
    assert Path('three/last_checkpoint').read_text().endswith('iter_4.dcp')
    assert len(list(Path('three/iter_4.dcp').glob('*.safetensors'))) == 3
    small_runs.train(monkeypatch, 'parted', 'one', '--resume', FIRST)
    double = 'train_dataloader.batch_size=6'
    small_runs.train(monkeypatch, 'parted', 'whole', '--cfg-options', double)
    expected = load_from_local('whole/iter_4.pth')
    for path in ('three/iter_4.dcp', 'one/iter_4.pth'):
        found = load_from_local(path)
        assert found['meta']['iter'] == 4
        for part in ('state_dict', 'optimizer'):
            assert_near(found[part], expected[part])


def test_it_becomes_an_ordinary_checkpoint(folder, capsys):
    assert main(['convert', STOPPED, 'one.pth']) == 0
    found, expected = small_runs.state('one.pth'), load_from_local(STOPPED)
    assert list(found) == list(expected)
    for part in ('state_dict', 'optimizer'):
        assert equal(found[part], expected[part])
    assert len(found['optimizer']['state']) == len(found['state_dict']) - sum(
        'running' in k or 'tracked' in k for k in found['state_dict']
    )
    # A folder is read wherever a file is.
    assert main(['info', STOPPED]) == 0
    assert f'in {len(found["state_dict"])} tensors' in capsys.readouterr().out
    words = ['--to', 'mmmeta', '--prefix', 'backbones.0.']
    assert main(['convert', STOPPED, 'weights.pth', *words]) == 0


def test_weights_that_are_no_numbers_are_not_saved(folder, warm_python):
    optimizer = 'optim_wrapper.optimizer'
    options = [
        'model.families="[PoolFormer]"',
        f'{optimizer}.lr=3e37',
        f'{optimizer}.weight_decay=11.3',
    ]
    options += ['default_hooks.checkpoint.interval=1']
    statuses, log = train(warm_python, 2, 'infinite', '--cfg-options', *options)
    assert statuses == [1, 1]
    assert 'error: after iteration 1, ' in log
    assert ' weights are no numbers (backbones.0.' in log
    assert not list(Path('infinite').glob('*.dcp'))


@pytest.mark.parametrize('change', ['missing', 'short', 'none', 'foreign', 'damaged'])
def test_a_folder_that_is_not_complete(folder, change, tmp_path):
    shutil.copytree(STOPPED, tmp_path / 'x.dcp')
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
