"""Checkpoints that are being written when a run is killed, or a disk is full."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import differ, state, write_configs

from mmmeta.errors import UserError
from mmmeta.hosts import saving

ROOT = Path(__file__).resolve().parents[2]
SEED = 'randomness.seed=3'

SLOWLY = (
    small_runs.SLOWLY.format(pause=0.05)
    + """
import runpy, sys
import small_runs

tool, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = tool
runpy.run_path(tool, run_name='__main__')
"""
)


@pytest.fixture(autouse=True)
def folder(tmp_path, shapes, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path, shapes)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('LOCAL_RANK', '0')
    return tmp_path


@pytest.fixture
def train(monkeypatch):
    return lambda *args: small_runs.train(monkeypatch, *args)


KEEP_ONE = 'default_hooks.checkpoint.max_keep_ckpts=1'


def test_kill_while_a_checkpoint_is_written(warm_python, train):
    """The one before it is there until then, and the run ends as if nothing was."""
    options = ['--cfg-options', SEED, KEEP_ONE]
    train('epochs', 'whole', *options)
    process = warm_python.start(
        *(ROOT / 'tools/train.py', 'epochs.py', '--work-dir', 'killed', *options),
        code=SLOWLY,
        log=Path('log').absolute(),
        cwd='.',
        env=dict(PYTHONPATH=str(ROOT / 'tests'), OMP_NUM_THREADS='1'),
    )
    partial = Path('killed/epoch_2.pth.partial')
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert partial.stat().st_size < Path('whole/epoch_2.pth').stat().st_size
    assert not Path('killed/epoch_2.pth').exists()
    assert Path('killed/last_checkpoint').read_text().endswith('epoch_1.pth')
    assert state('killed/epoch_1.pth')['meta']['epoch'] == 1
    train('epochs', 'killed', '--resume', *options)
    assert differ('killed/epoch_2.pth', 'whole/epoch_2.pth') == []
    left = sorted(path.name for path in Path('killed').iterdir() if path.is_file())
    assert left == ['epoch_2.pth', 'epochs.py', 'last_checkpoint']


def test_a_full_disk_keeps_the_old_checkpoint(train, limit, monkeypatch):
    options = ['--cfg-options', SEED, KEEP_ONE]
    train('epochs', 'whole', *options)
    size = Path('whole/epoch_2.pth').stat().st_size
    write, count = saving.save, 0

    def save(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 2:
            limit(size // 2)
        write(*args, **kwargs)

    monkeypatch.setattr(saving, 'save', save)
    with pytest.raises(UserError) as error:
        train('epochs', 'full', *options)
    limit(resource.RLIM_INFINITY)
    text = str(error.value)
    work = Path('full').resolve()
    assert text.startswith(f'{work}/epoch_2.pth was not saved: File too large,')
    assert f'the last checkpoint is still {work}/epoch_1.pth. Make room' in text
    assert '\n' not in text
    assert [p.name for p in Path('full').glob('*.pth*')] == ['epoch_1.pth']
    assert not Path('full/.saving').exists()
    monkeypatch.setattr(saving, 'save', write)
    train('epochs', 'full', '--resume', *options)
    assert differ('full/epoch_2.pth', 'whole/epoch_2.pth') == []


def test_the_old_one_goes_once_the_new_one_is_there(train, monkeypatch):
    """By max_keep_ckpts and save_best: at each removal, the note names a whole file."""
    seen = []
    remove = os.remove

    def check(path, *args, **kwargs):
        if str(path).endswith('.pth'):
            seen.append(os.path.basename(path))
            note = Path('work/last_checkpoint').read_text()
            assert note != path and torch.load(note, weights_only=False)
        remove(path, *args, **kwargs)

    monkeypatch.setattr(os, 'remove', check)
    best = 'default_hooks.checkpoint.save_best=acc'
    train('iterations', 'work', '--cfg-options', KEEP_ONE, best)
    assert [name for name in seen if name.startswith('iter')] == [
        *('iter_4.pth', 'iter_8.pth')
    ]
    assert [name for name in seen if name.startswith('best')] == [
        *('best_acc_iter_4.pth', 'best_acc_iter_8.pth')
    ]
    names = sorted(path.name for path in Path('work').glob('*.pth'))
    assert names == ['best_acc_iter_12.pth', 'iter_12.pth']


def test_published_files(train):
    keys = 'default_hooks.checkpoint.published_keys=[meta,state_dict]'
    out = 'default_hooks.checkpoint.out_dir=elsewhere'
    train('epochs', 'run', '--cfg-options', keys, out)
    assert Path('run/last_checkpoint').read_text() == 'elsewhere/run/epoch_2.pth'
    (published,) = Path('elsewhere/run').glob('epoch_2-????????.pth')
    assert set(state(published)) == {'meta', 'state_dict'}
    assert not list(Path('elsewhere/run').glob('.*'))


def test_a_folder_that_cannot_be_written(train):
    Path('file').write_text('')
    out = 'default_hooks.checkpoint.out_dir=file'
    with pytest.raises(UserError, match=r'file/run/epoch_1\.pth was not saved: .*none'):
        train('epochs', 'run', '--cfg-options', out)
