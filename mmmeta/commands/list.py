"""`mmmeta list`: names."""

import argparse
import sys

from mmmeta.archs.families import ARCHS
from mmmeta.hosts.libraries import TASKS
from mmmeta.weights.names import list_models, nearest, published
from mmmeta.weights.zoo import ZOO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'pattern', nargs='?', default='*', help="wildcards, such as '*former_s12'"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        '--pretrained',
        action='store_true',
        help='list published classifiers (arch.tag) with their figures',
    )
    choice.add_argument(
        '--task',
        choices=TASKS,
        help='list the published models for a task, one name per line',
    )


def run(args: argparse.Namespace) -> int:
    names = list_models(args.pattern, args.pretrained, args.task)
    if not names:
        known = [*ZOO] if args.pretrained else [*(published() if args.task else ARCHS)]
        near = nearest(args.pattern.strip('*'), known)
        hint = f'; nearest: {", ".join(near)}' if near else ''
        print(f'no name matches {args.pattern!r}{hint}', file=sys.stderr)
        return 1
    if not args.pretrained:
        print('\n'.join(names))
        return 0
    width = max(map(len, names))
    print(f'{"name":{width}}  top-1  params (M)  MACs (G)  input  classes')
    for name in names:
        row = ZOO[name]
        top1 = '-' if row.top1 is None else f'{row.top1:.1f}'
        print(
            f'{name:{width}}  {top1:>5}  {row.params:>10g}  {row.macs:>8g}  '
            f'{row.input_size:>5}  {row.num_classes:>7}'
        )
    return 0
