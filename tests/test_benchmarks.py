"""The benchmark on its smallest cases: comparison, counting and report."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from warm import Fork, WarmPython

from benchmarks.__main__ import main
from benchmarks.cases import (
    Alternative,
    Case,
    select_alternatives,
    select_cases,
)
from benchmarks.measure import fewest_bytes, peak_bytes, saved_bytes
from benchmarks.report import show, summarize
from benchmarks.run import Settings, run_case
from mmmeta.errors import UserError

INFERENCE = 'backbone/poolformer_s12/1x64x64/float32'
TRAINING = 'training/poolformer_s12/1x64x64/float32'
PAIR = ('mmpretrain', 'mmmeta')
WRONG_PEER = """
import torch
from benchmarks import models

def other_weights(case, state, normalized):
    model = models.timm(case, state, normalized)
    with torch.no_grad():
        model.stem.conv.weight.mul_(1.01)
    return model
"""
WORKER = """
import runpy
runpy.run_module('benchmarks.worker', run_name='__main__', alter_sys=True)
"""


@pytest.fixture
def fork_workers(warm_python: WarmPython, monkeypatch: pytest.MonkeyPatch):
    """Returns a function that makes all workers but the first few forks.

    Those would import for most of their time.
    """

    def fork(first: int) -> None:
        unforked = iter(range(first))

        def start(command, *, stderr, cwd, env, **pipes) -> subprocess.Popen | Fork:
            assert command[:-1] == [sys.executable, '-m', 'benchmarks.worker']
            if next(unforked, None) is not None:
                others = dict(stderr=stderr, cwd=cwd, env=env)
                return subprocess.Popen(command, **others, **pipes)
            log = Path(stderr.name)
            return warm_python.start(
                command[-1], code=WORKER, log=log, cwd=cwd, env=env
            )

        processes = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
        monkeypatch.setattr('benchmarks.run.subprocess', processes)

    return fork


def rows_of(case: dict) -> dict[str, dict]:
    return {row['name']: row for row in case['rows']}


@pytest.mark.slow
def test_from_the_command_line_to_files(fork_workers, tmp_path, capsys):
    fork_workers(1)  # the first computes what is expected
    file, picture = tmp_path / 'bench.json', tmp_path / 'bench.png'
    status = main(
        [
            *('--cases', INFERENCE, '--rounds', '3', '--seconds', '0'),
            *('--alternatives', 'mmmeta eager', '*contiguous', '*users'),
            *('--no-memory', '--threads', '1'),
            *('--json', str(file), '--plot', str(picture)),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.out + printed.err
    assert printed.err == ''
    (case,) = json.loads(file.read_text())

    rows = rows_of(case)
    assert list(rows) == [
        *('mmmeta eager', 'mmpretrain eager contiguous', 'timm eager contiguous'),
        *('mmmeta as users', 'mmpretrain as users'),
    ]
    for row in rows.values():
        assert row['counts'] and row['error'] <= 1e-4 and row['rounds'] == 3
        base = 'mmmeta eager' if row['process'] == 'shared' else 'mmmeta as users'
        assert row['to_mmmeta'] == row['median_ms'] / rows[base]['median_ms']
        assert row['min_ms'] <= row['q1_ms'] <= row['median_ms'] <= row['q3_ms']
        line = next(s for s in printed.out.splitlines() if s.startswith(row['name']))
        assert f'{row["median_ms"]:.1f}' in line and f'{row["to_mmmeta"]:.2f}' in line
    # A peer's kernels in another memory format round differently, so it did run.
    assert rows['mmpretrain eager contiguous']['error'] > 0
    assert case['environment']['shared']['threads'] == 1
    assert case['environment']['stock tool']['allocator'] == 'stock'

    users, *others = case['comparisons']
    theirs, ours = (rows[f'{who} as users']['median_ms'] for who in PAIR)
    assert users['ratio'] == theirs / ours
    assert f'as users run each: mmpretrain as users {theirs:.1f} /' in printed.out
    assert [line['label'] for line in others] == [
        'eager, MMPretrain',
        'eager, best peer',
    ]
    assert picture.read_bytes()[:4] == b'\x89PNG'


@pytest.mark.slow
def test_a_training_step_beside_what_does_not_count(
    fork_workers, tmp_path, monkeypatch
):
    fork_workers(0)
    (tmp_path / 'wrong_peer.py').write_text(WRONG_PEER)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    case = Case.parse(TRAINING)
    rows = [
        *select_alternatives(case, ['timm eager contiguous']),
        Alternative('timm eager wrong', 'wrong_peer:other_weights'),
        Alternative('timm eager missing', 'wrong_peer:no_such_function'),
    ]
    result = run_case(case, rows, Settings(threads=1, rounds=1, memory=False))
    own, timm, wrong, missing = result['rows']
    assert own['name'] == 'mmmeta eager'
    assert own['counts'] and own['error'] == 0
    assert timm['counts'] and 0 < timm['error'] <= 1e-4  # of maps and gradients
    assert not wrong['counts'] and 1e-4 < wrong['error'] < 1
    assert wrong['median_ms'] > 0 and wrong['to_mmmeta'] is None
    assert not missing['counts'] and 'median_ms' not in missing

    lines = {line['figure']: line['values'] for line in result['comparisons']}
    assert lines == {key: [timm[key], own[key]] for key in ('median_ms', 'saved_mib')}
    assert own['saved_mib'] > 1
    text = show(result)
    saved = f'{timm["saved_mib"]:.1f}'
    assert f'saved for backward: timm eager contiguous {saved} /' in text
    assert 'does not count: outputs differ by more than 0.0001' in text
    assert 'no_such_function' in text
    assert '| timm eager wrong |' in show(result, markdown=True)


def test_summary_of_calls():
    facts = summarize([(4.0, 10), (1.0, 0), (2.0, 20), (3.0, 0), (100.0, 0)])
    assert facts['median_ms'] == median([4, 1, 2, 3, 100]) == 3
    assert (facts['q1_ms'], facts['q3_ms'], facts['min_ms']) == (2, 4, 1)
    assert facts['faults'] == 0 and facts['rounds'] == 5
    assert summarize([(5.0, 1)])['median_ms'] == 5


def test_saved_bytes_of_a_known_module():
    """The inputs of both layers are saved, but no weights."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    # ReLU saves its output, which is also the second layer's input: one storage.
    assert saved_bytes(model, lambda: model(x)) == 4 * 10 * (8 + 16)
    assert saved_bytes(model[0], lambda: model[0](x).relu().square()) == 4 * 10 * (
        8 + 16
    )


def test_peak_of_a_known_call():
    mib = 2**20
    peak = peak_bytes(lambda: torch.ones(64 * mib // 4).sum())
    assert 60 * mib <= peak < 72 * mib  # a part was already resident


def test_fewest_bytes_by_hand():
    """One block per stage; a square image of 64 pixels."""
    from mmmeta.models import MetaFormer

    dims, sides = (4, 8, 12, 16), (16, 8, 4, 2)
    with torch.device('meta'):
        model = MetaFormer(dict(depths=(1, 1, 1, 1), dims=dims), out_norm=False)
    maps = [dim * side**2 for dim, side in zip(dims, sides, strict=True)]
    moved = 3 * 64**2 + maps[-1] + 2 * sum(maps[:-1])  # downsampling
    moved += 4 * sum(maps)  # two branches per block
    weights = sum(p.numel() for p in model.parameters())
    assert fewest_bytes(model.eval(), 2, (64, 64), 2) == 2 * (2 * moved + weights)


def test_cases_and_rows_are_chosen_by_name():
    every = [case.name for case in select_cases(['*'])]
    assert len(every) == len(set(every)) == 38
    assert [Case.parse(name).name for name in every] == every
    assert [c.size for c in select_cases(['backbone/caformer_s18/1x800*/float32'])] == [
        (800, 1216)
    ]
    (own,) = select_cases(['backbone/convformer_b36/3x96x64/bfloat16'])
    assert (own.arch, own.batch, own.size) == ('convformer_b36', 3, (96, 64))
    assert '2x800x1344' in ' '.join(c.name for c in select_cases(['*'], 'cuda'))
    for pattern in ('nothing*', 'backbone/resnet50/1x64x64/float32'):
        with pytest.raises(UserError, match='no case matches'):
            select_cases([pattern])


def test_wrong_arguments_say_what_to_do(tmp_path, capsys):
    assert main(['--quick', '--alternatives', 'jax*']) == 1
    assert 'it has mmmeta eager, ' in capsys.readouterr().err
    assert main(['--quick', '--json', str(tmp_path / 'a/b.json')]) == 1
    assert 'no folder' in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(['--rounds', '0'])
    assert stopped.value.code == 2


def test_list(capsys):
    assert main(['--list', '--cases', 'retinanet/*']) == 0
    listed = capsys.readouterr().out.split('\n')
    assert '  retinanet/poolformer_s12/1x800x1216/float32' in listed
    assert '  mmpretrain as users' in listed
