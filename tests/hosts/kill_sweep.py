"""Kill trainings at random moments and compare what they end with, to the bit.

python tests/hosts/kill_sweep.py --kills 20

One process and two, loops of epochs and of iterations, with and without loading
processes: each run is killed (SIGKILL) or told to stop (SIGTERM, SIGUSR1) after a
random time, resumed, and so on until it has been ended often enough; then it is left to
finish. A checkpoint that a run left is read each time. It takes minutes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))

import small_runs  # noqa: E402

from mmmeta.datasets import make_shapes  # noqa: E402

RUNS = [('epochs', 0), ('epochs', 2), ('iterations', 0), ('iterations', 2)]
LAST = dict(epochs='epoch_8.pth', iterations='iter_48.pth')


def start(count: int, name: str, work: Path, workers: int) -> subprocess.Popen:
    # So that kills hit the writing, too.
    code = small_runs.SLOWLY.format(pause=0.02) + small_runs.PROCESSES
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    environment['PYTHONPATH'] = str(ROOT / 'tests')
    size = 2 // count  # so that all processes have as many iterations as one
    options = [
        'randomness.seed=3',
        f'train_dataloader.num_workers={workers}',
        f'train_dataloader.batch_size={size}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'default_hooks.checkpoint.save_best=acc',
        *(
            ['train_cfg.max_epochs=8']
            if name == 'epochs'
            else ['train_cfg.max_iters=48']
        ),
    ]
    words = [
        ROOT / 'tools/train.py',
        count,
        f'{name}.py',
        '--work-dir',
        work,
        '--resume',
    ]
    words += ['--launcher', 'pytorch', '--cfg-options', *options]
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=open(f'{work}.log', 'a'),
        start_new_session=True,
    )


def finish(count: int, name: str, work: Path, workers: int) -> float:
    """Let a run end, and return the seconds of its training."""
    before = begun(work)
    process = start(count, name, work, workers)
    wait_for(process, work, before)
    began = time.monotonic()
    assert process.wait() == 0, f'see {work}.log'
    return time.monotonic() - began


def begun(work: Path) -> int:
    """Return how many runs have begun: MMEngine makes a folder for each."""
    return len(list(work.glob('20*')))


def wait_for(process: subprocess.Popen, work: Path, before: int) -> None:
    """Wait until one more run has begun: imports take longer than the training."""
    while begun(work) == before and process.poll() is None:
        time.sleep(0.01)


def sweep(count: int, name: str, workers: int, kills: int, rng: random.Random) -> str:
    """Return a line about one kind of run."""
    whole, work = (Path(f'{x}_{name}_{count}_{workers}') for x in ('whole', 'killed'))
    length = finish(count, name, whole, workers)
    sent: dict[str, int] = {}
    partial = resumed = 0
    while sum(sent.values()) < kills:
        before = begun(work)
        process = start(count, name, work, workers)
        wait_for(process, work, before)
        number = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGUSR1])
        time.sleep(rng.uniform(0, 0.8) * length)
        if process.poll() is not None:
            # It was done: what is left is to start again, from nothing.
            assert process.returncode == 0
            check(work, whole, name)
            subprocess.run(['rm', '-r', work], check=True)
            continue
        # The first is their parent, which only waits.
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
        target = [int(pid) for pid in children.read_text().split()]
        for pid in target if number == signal.SIGKILL else target[:1]:
            os.kill(pid, number)
        process.wait(timeout=60)
        if number == signal.SIGKILL:
            with_partial = list(work.glob('*.partial'))
            partial += bool(with_partial)
        sent[number.name] = sent.get(number.name, 0) + 1
        note = work / 'last_checkpoint'
        if note.exists():
            small_runs.state(note.read_text())
            resumed += 1
    finish(count, name, work, workers)
    check(work, whole, name)
    kinds = ', '.join(f'{n} {k}' for k, n in sorted(sent.items()))
    return (
        f'{count} processes, {name}, {workers} loading: {kinds}; {partial} while a '
        f'checkpoint was written, {resumed} with one to resume: the same to the bit'
    )


def check(work: Path, whole: Path, name: str) -> None:
    wrong = small_runs.differ(work / LAST[name], whole / LAST[name])
    assert not wrong, f'{work}: {wrong}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=20, help='of each kind of run')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data = make_shapes('shapes', num_train=24, num_val=8, size=128, progress=False)
        small_runs.write_configs(Path(), data.resolve())
        for count in args.processes:
            for name, workers in RUNS:
                print(sweep(count, name, workers, args.kills, rng), flush=True)


if __name__ == '__main__':
    main()
