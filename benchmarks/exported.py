"""Time a whole model, from an image's pixels to its results, beside its exported files.

python -m benchmarks.exported CONFIG CHECKPOINT IMAGE... --files model.onnx model.xml

The host library's inferencer, the same after `mmmeta.optimize`, and each file run in
turns; the table has medians relative to the first.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import mmmeta
from mmmeta.cli import exit_status
from mmmeta.hosts.images import read_image
from mmmeta.hosts.predictor import build_predictor
from mmmeta.runtime import open_model

WARM_UP = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        'python -m benchmarks.exported', description=__doc__.split('\n')[0]
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='+', type=Path)
    parser.add_argument('--files', nargs='+', default=[])
    parser.add_argument('--rounds', type=int, default=5, help='calls of each per image')
    parser.add_argument(
        '--optimize', action='store_true', help='also time `mmmeta.optimize`'
    )
    return exit_status('benchmarks.exported', run, parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    images = [read_image(path) for path in args.images]
    predictor = build_predictor(args.config, args.checkpoint, 'cpu')
    rows: dict[str, Callable[[np.ndarray], object]] = {'inferencer': predictor}
    if args.optimize:
        other = build_predictor(args.config, args.checkpoint, 'cpu')
        other.model.backbone = mmmeta.optimize(other.model.backbone)
        rows['optimize'] = other
    for file in args.files:
        rows[file] = _of_file(file)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(WARM_UP + args.rounds):
        for image in images:
            for name, call in rows.items():
                start = time.perf_counter()
                call(image)
                if turn >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds['inferencer'])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f'{name:40} {1000 * middle:8.0f} ms  {middle / first:5.2f}')
    return 0


def _of_file(file: str) -> Callable[[np.ndarray], object]:
    model = open_model(file)
    return lambda image: model(image[..., ::-1])


if __name__ == '__main__':
    sys.exit(main())
