"""Runs that are told to stop, by the tools: they end like those that were not."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_runs
from small_runs import differ, state, write_configs

from mmmeta.errors import UserError
from mmmeta.hosts.preemption import PreemptionHook


@pytest.fixture(autouse=True)
def folder(tmp_path, shapes, monkeypatch) -> Path:
    """The current folder, with the configs of small_runs."""
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path, shapes)
    monkeypatch.setenv('LOCAL_RANK', '0')
    # MMEngine's loops wait for two seconds between epochs.
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=id))
    return tmp_path


@pytest.fixture
def train(monkeypatch):
    return lambda *args: small_runs.train(monkeypatch, *args)


@pytest.fixture
def stop(train):
    """Train until a signal, and check the status."""

    def call(name: str, work: str, hook: dict, *args: str) -> None:
        hooks = [f'custom_hooks.1.{key}={value}' for key, value in hook.items()]
        with pytest.raises(SystemExit) as end:
            train(name, work, '--cfg-options', *hooks, *args)
        assert end.value.code == 75

    return call


LAST = dict(epochs='epoch_2.pth', iterations='iter_12.pth', rounds='iter_12.pth')
SEED = 'randomness.seed=3'


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('name', ['epochs', 'iterations', 'rounds'])
def test_a_stopped_run_ends_as_one_that_was_not(name, workers, train, stop):
    options = [SEED, f'train_dataloader.num_workers={workers}']
    train(name, 'whole', '--cfg-options', *options)
    for at in (2, 6, 7) if workers == 0 else (4,):
        work = f'stopped{at}'
        stop(name, work, dict(at=at), *options)
        last = Path(work, 'last_checkpoint').read_text()
        # One that is saved anyway is not saved twice.
        assert last.endswith(
            'interrupted.pth' if at != 7 or name == 'epochs' else 'iter_8.pth'
        )
        assert state(last)['meta']['iter'] == at + 1
        train(name, work, '--resume', '--cfg-options', *options)
        assert differ(f'{work}/{LAST[name]}', f'whole/{LAST[name]}') == []
        assert not Path(work, 'interrupted.pth').exists()
        assert Path(work, 'last_checkpoint').read_text().endswith(LAST[name])


def test_the_random_states_are_what_makes_them_equal(train, stop, capsys):
    """Without them a resumed run ends elsewhere, so that the test above has a point."""
    options = [SEED, 'custom_hooks.2.exact=False']
    with open('epochs.py', 'a') as file:
        file.write("custom_hooks.append(dict(type='mmmeta.PreemptionHook'))\n")
    train('epochs', 'whole', '--cfg-options', *options)
    stop('epochs', 'stopped', dict(at=2), *options)
    train('epochs', 'stopped', '--resume', '--cfg-options', *options)
    assert 'state_dict' in differ('stopped/epoch_2.pth', 'whole/epoch_2.pth')


@pytest.mark.parametrize(
    ('name', 'at', 'signal_name'),
    [('epochs', 6, 'SIGUSR1'), ('iterations', 8, 'SIGTERM')],
)
def test_a_validation_that_was_interrupted_is_made_up_for(
    name, at, signal_name, train, stop
):
    best = ['default_hooks.checkpoint.save_best=acc', SEED]
    train(name, 'whole', '--cfg-options', *best)
    stop(name, 'stopped', dict(at=at, name=signal_name, where='val'), *best)
    (former,) = Path('stopped').glob('best_acc*') if at == 8 else [None]
    train(name, 'stopped', '--resume', '--cfg-options', *best)
    assert differ(f'stopped/{LAST[name]}', f'whole/{LAST[name]}') == []
    names = [
        sorted(p.name for p in Path(w).glob('*.pth')) for w in ('whole', 'stopped')
    ]
    assert names[0] == names[1]
    assert former is None or not former.exists()


def test_any_checkpoint_continues_exactly(train):
    """Of the end of an epoch, and in its midst; with other loading processes, too."""
    options = [SEED, 'default_hooks.checkpoint.by_epoch=False']
    options += ['default_hooks.checkpoint.interval=4']
    train('epochs', 'whole', '--cfg-options', *options)
    for k, workers in ((4, 0), (8, 2)):
        work = f'from{k}'
        more = [*options, f'train_dataloader.num_workers={workers}']
        checkpoint = f'whole/iter_{k}.pth'
        train('epochs', work, '--resume', checkpoint, '--cfg-options', *more)
        assert differ(f'{work}/iter_12.pth', 'whole/iter_12.pth') == []


def test_without_a_seed_the_run_keeps_the_one_it_drew(train, stop):
    stop('epochs', 'stopped', dict(at=3))
    saved = state('stopped/interrupted.pth')
    train('epochs', 'one', '--resume', 'stopped/interrupted.pth')
    train('epochs', 'two', '--cfg-options', f'randomness.seed={saved["meta"]["seed"]}')
    assert differ('one/epoch_2.pth', 'two/epoch_2.pth') == []


def test_accumulated_gradients_are_not_lost(train, stop):
    options = [SEED, 'optim_wrapper.accumulative_counts=4']
    train('epochs', 'whole', '--cfg-options', *options)
    stop('epochs', 'stopped', dict(at=4), *options)
    assert state('stopped/interrupted.pth')['meta']['iter'] == 8
    train('epochs', 'stopped', '--resume', '--cfg-options', *options)
    assert differ('stopped/epoch_2.pth', 'whole/epoch_2.pth') == []


def test_two_processes_agree(warm_python, monkeypatch):
    """One of them gets the signal; then one process continues with the same batches."""
    base = ['epochs.py', '--work-dir']
    train = partial(small_runs.processes, warm_python)
    assert train(2, *base, 'whole', '--cfg-options', SEED)[0] == [0, 0]
    hook = ['custom_hooks.1.at=1', 'custom_hooks.1.rank=1', SEED]
    codes, _ = train(2, *base, 'stopped', '--cfg-options', *hook)
    assert codes == [75, 75]
    assert state('stopped/interrupted.pth')['meta']['iter'] == 2
    copy = ['--resume', 'stopped/interrupted.pth', '--cfg-options', SEED]
    assert train(2, *base, 'two', *copy)[0] == [0, 0]
    assert differ('two/epoch_2.pth', 'whole/epoch_2.pth') == []
    small_runs.train(monkeypatch, 'epochs', 'one', *copy)
    assert 'processes continue a run of 2: each has 4 samples' in log_of('one')
    found, expected = (state(f'{w}/epoch_2.pth') for w in ('one', 'whole'))
    assert found['meta']['iter'] == expected['meta']['iter'] == 6


def log_of(work: str) -> str:
    (log,) = Path(work).glob('*/*.log')
    return log.read_text()


def test_a_batch_that_cannot_be_shared_out_is_said():
    hook = PreemptionHook()
    hook.batches, hook.config_size = SimpleNamespace(), 2
    kept = dict(world_size=2, batch_size=4, config_size=2)
    with pytest.raises(
        UserError, match='4 samples in an iteration, of 2 processes, whi'
    ):
        hook._keep_batch(SimpleNamespace(world_size=3), kept)
