"""`mmmeta download NAME...`: get published checkpoints before they are needed."""

import argparse
import os
from fnmatch import fnmatchcase
from pathlib import Path

from mmmeta.weights.names import SCHEME, find, published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'names',
        metavar='NAME',
        nargs='+',
        help="such as mask_rcnn_poolformer_s12, caformer_s18.sail_in1k, or '*_s12*'",
    )
    parser.add_argument(
        '--to',
        type=Path,
        metavar='DIR',
        help='folder to put them in; on another machine set MMMETA_HOME to it '
        '(default: the cache that all commands use)',
    )


def run(args: argparse.Namespace) -> int:
    names = list(dict.fromkeys(name for text in args.names for name in _names(text)))
    from mmmeta.weights.download import fetch_published

    if args.to is not None:
        os.environ['MMMETA_HOME'] = str(args.to)
    for name in names:
        print(f'{name}: {fetch_published(name)}', flush=True)
    return 0


def _names(text: str) -> list[str]:
    """Return the names that one argument means.

    Raises:
        CheckpointError: There is none.
    """
    text = text.removeprefix(SCHEME)
    matches = [name for name in published() if fnmatchcase(name, text)]
    return matches or [find(text).name]
