"""`mmmeta flops MODEL`: parameters and multiply-accumulates, by stage.

`counting` counts them.
"""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmmeta.errors import UserError

if TYPE_CHECKING:
    from mmmeta.commands.flops.counting import Complexity

MIN_SIZE = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'model', help='a name, such as poolformer_s12, or a config file'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIZE',
        help='height and width of the image in pixels, or one number for both '
        '(default: 224 for a name, the test size for a config)',
    )
    parser.add_argument('--json', action='store_true', help='print exact JSON figures')


def run(args: argparse.Namespace) -> int:
    shape = _shape(args.shape)
    from mmmeta.commands.flops.counting import count_target

    parts, shape = count_target(args.model, shape)
    if args.json:
        total = asdict(parts.pop(''))
        rows = {name: asdict(cost) for name, cost in parts.items()}
        print(json.dumps(dict(model=args.model, shape=shape, total=total, parts=rows)))
    else:
        print(f'{args.model} for one image of {shape[0]}x{shape[1]} (height x width)')
        print('\n'.join(_table(parts)))
    return 0


def _shape(sizes: list[int] | None) -> tuple[int, int] | None:
    if sizes is None:
        return None
    if len(sizes) > 2:
        raise UserError(f'--shape takes a height and a width, got {len(sizes)} numbers')
    if min(sizes) < MIN_SIZE:
        raise UserError(
            f'--shape must be at least {MIN_SIZE} pixels, the stride of the backbones; '
            f'got {min(sizes)}'
        )
    return sizes[0], sizes[-1]


def _table(parts: dict[str, 'Complexity']) -> list[str]:
    """Return the lines of the table, in millions and billions."""
    frozen = any(cost.frozen for cost in parts.values())
    header = ['part', 'params (M)', *['frozen (M)'] * frozen, 'MACs (G)', 'norms (G)']
    lines = [header]
    for name, cost in parts.items():
        indent = '  ' * name.count('.stages.')
        figures = [cost.params / 1e6, *[cost.frozen / 1e6] * frozen]
        figures += [cost.macs / 1e9, cost.norm_macs / 1e9]
        lines.append([indent + (name or 'total'), *(f'{f:,.2f}' for f in figures)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        f'{first:{widths[0]}}  '
        + '  '.join(f'{cell:>{w}}' for cell, w in zip(rest, widths[1:], strict=True))
        for first, *rest in lines
    ]
