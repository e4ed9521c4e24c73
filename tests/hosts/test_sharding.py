"""Parameters spread over two processes (FSDP2) train as whole ones (DDP) do."""

from pathlib import Path

import pytest
import torch
from small_runs import processes, state, train, write_configs

from mmmeta.errors import UserError
from mmmeta.hosts.sharding import check_options

# Without what is drawn anew for each layout of parameters, or averaged.
PLAIN = """
_base_ = 'epochs.py'
custom_hooks = []
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=1))
"""


@pytest.fixture
def folder(tmp_path, shapes, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path, shapes)
    (tmp_path / 'plain.py').write_text(PLAIN)
    (tmp_path / 'sharded.py').write_text("_base_ = 'plain.py'\nfsdp = dict()\n")
    return tmp_path


def run(python, name: str, work: str, *options: str) -> str:
    # Dropout would draw other numbers; norms of batches do not, they are per process.
    words = ['randomness.seed=3', 'train_dataloader.batch_size=3']
    statuses, log = processes(
        python, 2, f'{name}.py', '--work-dir', work, '--cfg-options', *words, *options
    )
    assert statuses == [0, 0], log
    return log


def near(one: dict, other: dict) -> float:
    assert list(one) == list(other)
    return max(
        (one[k].double() - other[k].double()).abs().max().item()
        for k in one
        if one[k].is_floating_point()
    )


def test_shards_train_like_whole_parameters(folder, warm_python, monkeypatch):
    whole = run(warm_python, 'plain', 'whole')
    sharded = run(warm_python, 'sharded', 'sharded')
    for text in (whole, sharded):
        assert 'grad_norm' in text
    one, other = (state(f'{work}/epoch_2.pth') for work in ('whole', 'sharded'))
    assert near(one['state_dict'], other['state_dict']) < 1e-4
    states = [x['optimizer']['state'] for x in (one, other)]
    assert list(states[0]) == list(states[1])
    assert max(near(states[0][i], states[1][i]) for i in states[0]) < 1e-4
    groups = [x['optimizer']['param_groups'] for x in (one, other)]
    assert groups[0][0]['params'] == groups[1][0]['params']

    # From the middle: with shards, and in one process without.
    first = str(folder / 'sharded/epoch_1.pth')
    run(warm_python, 'sharded', 'again', f'load_from={first}', 'resume=True')
    again = state('again/epoch_2.pth')
    assert near(other['state_dict'], again['state_dict']) < 1e-4
    assert near(other['optimizer']['state'][0], again['optimizer']['state'][0]) < 1e-4
    train(monkeypatch, 'plain', 'alone', '--resume', first)
    alone = state('alone/epoch_2.pth')
    assert alone['state_dict'].keys() == other['state_dict'].keys()
    assert all(isinstance(v, torch.Tensor) for v in alone['state_dict'].values())


def test_what_does_not_go_with_shards(folder, warm_python):
    (folder / 'average.py').write_text("_base_ = 'epochs.py'\nfsdp = dict()\n")
    statuses, log = processes(warm_python, 2, 'average.py', '--work-dir', 'w')
    assert statuses == [1, 1]
    assert 'fsdp cannot be used with EMAHook' in log


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(cpu_offload=True), "fsdp has no option 'cpu_offload'"),
        (dict(mixed_precision='int8'), "mixed_precision='int8'; expected bfloat16"),
    ],
)
def test_options(options, message):
    with pytest.raises(UserError, match=message):
        check_options(options)
