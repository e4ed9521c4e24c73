"""Command line of the shapes data set: ``python -m mmmeta.datasets``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmmeta.datasets.shapes import describe_shapes, make_shapes


def main(argv: Sequence[str] | None = None) -> int:
    """Make the data set and describe it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m mmmeta.datasets',
        description='Make the shapes data set, unless it already exists.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--root', default='data/shapes', help='its folder')
    parser.add_argument(
        '--num-train', type=int, default=1000, help='number of training images'
    )
    parser.add_argument(
        '--num-val', type=int, default=200, help='number of validation images'
    )
    parser.add_argument(
        '--size', type=int, default=256, help='height and width of the images in pixels'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    parser.add_argument(
        '--easy',
        action='store_true',
        help='few shapes, none of them small or mostly hidden',
    )
    args = parser.parse_args(argv)
    try:
        root = make_shapes(
            args.root,
            num_train=args.num_train,
            num_val=args.num_val,
            size=args.size,
            seed=args.seed,
            easy=args.easy,
        )
    except (ValueError, OSError) as error:
        print(f'{parser.prog}: error: {error}', file=sys.stderr)
        return 1
    print(f'The shapes data set is in {root}')
    print(describe_shapes(root))
    return 0


if __name__ == '__main__':
    sys.exit(main())
