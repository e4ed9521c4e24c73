"""Images a second of `mmmeta predict`, by one process and by two.

    python -m benchmarks.shards CONFIG CHECKPOINT FOLDER --images 12

Each way runs on two images and on all; the difference leaves out the start. The ways
take turns, and the medians of the rounds are printed relative to one process with one
thread.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW = 2  # images for each process, whose time is that of the start
WAYS = {  # processes and the threads of each
    'one process, one thread': (1, 1),
    'one process, two threads': (1, 2),
    'two processes, one thread each': (2, 1),
}


def seconds(words: list[str], images: Path, processes: int, threads: int) -> float:
    """Return how long it takes until all shards have ended."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, '-m', 'mmmeta.cli', 'predict', *words, str(images)]
        command += ['--no-vis', '--device', 'cpu', '--out-dir', out]
        start = time.monotonic()
        running = [
            subprocess.Popen(
                [*command, '--shard', f'{i + 1}/{processes}'],
                env=os.environ | {'OMP_NUM_THREADS': str(threads)},
                stdout=subprocess.DEVNULL,
            )
            for i in range(processes)
        ]
        assert [process.wait() for process in running] == [0] * processes
        return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', nargs='+', help='NAME, FILE, or CONFIG CHECKPOINT')
    parser.add_argument('folder', type=Path, help='images')
    parser.add_argument('--images', type=int, default=12, metavar='N')
    parser.add_argument('--rounds', type=int, default=2, metavar='N')
    args = parser.parse_args()
    paths = sorted(args.folder.resolve().glob('*.jpg'))[: args.images]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for count in (FEW, 2 * FEW, len(paths)):
            folders[count] = Path(name, str(count))
            folders[count].mkdir()
            for path in paths[:count]:
                folders[count].joinpath(path.name).symlink_to(path)
        for _ in range(args.rounds):
            for way, (processes, threads) in WAYS.items():
                few = FEW * processes
                short, long = (
                    seconds(args.model, folders[count], processes, threads)
                    for count in (few, len(paths))
                )
                rates[way].append((len(paths) - few) / (long - short))
                print(f'{way}: {rates[way][-1]:.3f} images/s', flush=True)
    first = statistics.median(rates[next(iter(WAYS))])
    for way, found in rates.items():
        print(f'{way}: {statistics.median(found) / first:.2f}')


if __name__ == '__main__':
    main()
