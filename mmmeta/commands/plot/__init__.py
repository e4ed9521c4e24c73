"""`mmmeta plot WORK_DIR...`: curves of training logs.

`curves` reads and draws them.
"""

import argparse
from pathlib import Path

from mmmeta.commands.files import disk_errors
from mmmeta.errors import UserError

FORMATS = ('.png', '.svg')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'work_dir',
        nargs='+',
        help='work folder of a run; several share one figure',
    )
    parser.add_argument(
        '--out',
        default='curves',
        help='output: NAME.png, NAME.svg, or both for a bare NAME (default: curves)',
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        default=[],
        help="keys to plot, with wildcards, such as 'loss*' (default: losses, learning "
        'rate, AP, mIoU, top-1 accuracy)',
    )
    parser.add_argument(
        '--smooth',
        type=int,
        metavar='N',
        help='number of logged values to average, 1 for none (default: a twentieth of '
        'the log)',
    )
    parser.add_argument(
        '--log', action='store_true', help='logarithmic scale for losses and rates'
    )


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.plot.curves import choose_keys, draw, read_run, save

    if args.smooth is not None and args.smooth < 1:
        raise UserError(f'--smooth {args.smooth}: expected 1 or more logged values')
    runs = [
        read_run(folder, name)
        for folder, name in zip(args.work_dir, _names(args.work_dir), strict=True)
    ]
    figure = draw(runs, choose_keys(runs, args.keys), args.smooth, args.log)
    for file in _files(args.out):
        with disk_errors():
            save(figure, file)
        print(f'wrote {file}')
    return 0


def _names(folders: list[str]) -> list[str]:
    """Return the last parts of the paths, or the paths if two would be the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len({*names}) == len(names) else folders


def _files(out: str) -> list[Path]:
    if out.endswith(FORMATS):
        return [Path(out)]
    if Path(out).is_dir():
        raise UserError(f'--out {out} is a folder; expected the name of a picture')
    return [Path(out + suffix) for suffix in FORMATS]
