"""Two processes (gloo) train as one does, whatever options of the models are used."""

import signal
import time
from pathlib import Path

import pytest
import small_runs
import torch
from steps import CONFIG, apart, record


@pytest.fixture
def folder(tmp_path, shapes, monkeypatch) -> Path:
    """The current folder, with the config `recorded.py`."""
    monkeypatch.chdir(tmp_path)
    small_runs.write_configs(tmp_path, shapes)
    (tmp_path / 'recorded.py').write_text(CONFIG)
    return tmp_path


def run(python, work: str, *options: str, name: str = 'recorded') -> str:
    words = [f'{name}.py', '--work-dir', work, '--cfg-options', *options]
    statuses, log = small_runs.processes(python, 2, *words)
    assert statuses == [0, 0], log
    return log


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(
    folder, warm_python, monkeypatch
):
    """For 20 steps: the gradients and losses of DDP, and of FSDP2."""
    family = 'model.families="[CAFormer]"'
    double = [family, 'train_dataloader.batch_size=4']
    small_runs.train(monkeypatch, 'recorded', 'one', '--cfg-options', *double)
    run(warm_python, 'ddp', family)
    run(warm_python, 'fsdp', family, 'fsdp.mixed_precision=None')
    one, ddp, fsdp = map(record, ('one', 'ddp', 'fsdp'))
    assert max(one['losses']) - min(one['losses']) > 0.1  # its steps change something
    assert fsdp['own'] < 0.6 * ddp['own']
    for name, found, expected in (('DDP', ddp, one), ('FSDP2', fsdp, ddp)):
        gradients = apart(found['gradients'], expected['gradients'])
        pairs = zip(found['losses'], expected['losses'], strict=True)
        losses = max(abs(a / b - 1) for a, b in pairs)
        print(f'{name}: gradients within {gradients:.1e}, losses within {losses:.1e}')
        assert len(found['losses']) == 20
        assert gradients < 1e-5
        assert losses < 1e-5


# The first map is not used: with fork_last3 it has no norm that would get no gradient.
OPTIONS = """
_base_ = 'recorded.py'
model = dict(maps=1, fork_last3=True, frozen_stages=1, norm=dict(type='SyncBN'))
custom_hooks = [dict(type='RecordHook', steps=[3]), dict(type='EMAHook')]
train_cfg = dict(max_iters=4)
"""


def test_options_of_models_with_two_processes(folder, warm_python):
    """Frozen stages, fork_last3, recomputation, SyncBN, EMA and unused parameters."""
    (folder / 'options.py').write_text(OPTIONS)
    recomputed = ('model.with_cp=True', 'model.recompute_mlp=True')
    unused = ('model.fork_last3=False', 'model.unused=True')
    for work, *options in (
        ('plain', 'model.with_cp=False'),
        ('others', *recomputed, *unused, 'find_unused_parameters=True'),
    ):
        log = run(warm_python, work, *options, name='options')
        assert '1 SyncBN layers need GPUs: on this CPU they are plain' in log
        found, other = (record(work, rank) for rank in (0, 1))
        for part in ('weights', 'average'):
            assert small_runs.equal(found[part], other[part])
        assert not small_runs.equal(found['weights'], found['average'])
        trained = found['gradients'][0]
        assert trained.keys() == record('plain')['gradients'][0].keys()
        for start in ('backbones.0.stages.0', 'backbones.0.norm0', 'unused'):
            assert not any(name.startswith(start) for name in trained)
        for name, value in record('plain')['weights'].items():
            assert small_runs.equal(found['weights'][name], value)


def test_a_parameter_without_a_gradient_is_named(folder, warm_python):
    words = ['recorded.py', '--work-dir', 'work', '--cfg-options', 'model.maps=1']
    statuses, log = small_runs.processes(warm_python, 2, *words)
    assert statuses == [1, 1]
    last = log.splitlines()[-1]
    assert last.startswith(
        'error: parameters that got no gradient: backbones.0.norm0.weight, '
        'backbones.0.norm0.bias. With several'
    )
    assert 'Traceback' not in log


# Averages need whole parameters.
SHARDED = """
_base_ = 'options.py'
custom_hooks = [dict(type='RecordHook', steps=[3])]
fsdp = dict()
"""


def test_options_of_models_with_shards(folder, warm_python):
    """Recomputed blocks, frozen ones and unused parameters; half precision."""
    (folder / 'options.py').write_text(OPTIONS)
    (folder / 'sharded.py').write_text(SHARDED)
    recomputed = ('model.with_cp=True', 'model.recompute_mlp=True')
    unused = ('model.fork_last3=False', 'model.unused=True')
    # Of two numbers, a batch norm leaves the sign, which half precision may turn.
    many = ('model.families="[PoolFormer,UniFormer]"', 'model.norm=None')
    run(warm_python, 'whole', *many, name='options')
    run(warm_python, 'sharded', *many, *recomputed, *unused, name='sharded')
    half = 'fsdp.mixed_precision=bfloat16'
    run(warm_python, 'half', *many, *recomputed, half, name='sharded')
    whole, *others = map(record, ('whole', 'sharded', 'half'))
    for found, most in zip(others, (1e-5, 0.03), strict=True):
        assert apart(found['gradients'], whole['gradients']) < most
        assert found['losses'] == pytest.approx(whole['losses'], rel=most)
        assert {value.dtype for value in found['weights'].values()} == {torch.float32}
        assert found['own'] < 0.6 * whole['own']
    # The backbones alone compute in it.
    losses = torch.tensor(others[1]['losses'])
    assert (losses != losses.bfloat16()).any()
    assert not small_runs.equal(others[1]['losses'], whole['losses'])


def test_processes_stop_when_torchrun_dies(folder, warm_python):
    """They save first. By themselves they would go on, with those of other machines."""
    tool = Path(__file__).parents[2] / 'tools/train.py'
    words = [tool, 2, 'epochs.py', '--work-dir', 'work', '--launcher', 'pytorch']
    process = warm_python.start(
        *(*words, '--cfg-options', 'train_cfg.max_epochs=1000'),
        code=small_runs.PROCESSES,
        log=Path('log').absolute(),
        env=dict(PYTHONPATH=str(Path(__file__).parents[1]), TORCHELASTIC_RUN_ID='none'),
    )
    wait_until(Path('work/epoch_1.pth').exists)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (file,) = Path('work').glob('*/*.log')
    wait_until(lambda: 'saved. Continue with --resume' in file.read_text())


def wait_until(done) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)
