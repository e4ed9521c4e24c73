"""Command line of the shapes data set: ``python -m mmmeta.datasets``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from mmmeta.datasets._formats import FORMATS, write_shapes
from mmmeta.datasets.shapes import describe_shapes, make_shapes
from mmmeta.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Make the data set and describe it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m mmmeta.datasets',
        description='Make the shapes data set, unless it already exists.',
    )
    parser.add_argument(
        '--root', help='its folder (default: data/shapes, or data/shapes_FORMAT)'
    )
    parser.add_argument(
        '--format',
        choices=FORMATS,
        help='write a new folder in a format that `mmmeta data` reads (default: COCO '
        'with semantic maps and class folders besides)',
    )
    parser.add_argument(
        '--num-train',
        type=int,
        default=1000,
        help='number of training images (default: 1000)',
    )
    parser.add_argument(
        '--num-val',
        type=int,
        default=200,
        help='number of validation images (default: 200)',
    )
    parser.add_argument(
        '--size',
        type=int,
        default=256,
        help='height and width of the images in pixels (default: 256)',
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    parser.add_argument(
        '--easy',
        action='store_true',
        help='few shapes, none of them small or mostly hidden',
    )
    args = parser.parse_args(argv)
    root = args.root or '_'.join(filter(None, ('data/shapes', args.format)))
    params: dict[str, Any] = dict(
        num_train=args.num_train,
        num_val=args.num_val,
        size=args.size,
        seed=args.seed,
        easy=args.easy,
    )
    try:
        if args.format:
            print(f'{write_shapes(root, args.format, **params)}: {args.format}')
            return 0
        place = make_shapes(root, **params)
    except (UserError, ValueError, OSError) as error:
        print(f'{parser.prog}: error: {error}', file=sys.stderr)
        return 1
    print(f'The shapes data set is in {place}')
    print(describe_shapes(place))
    return 0


if __name__ == '__main__':
    sys.exit(main())
