"""`mmmeta info NAME`: details of a checkpoint."""

import argparse

from mmmeta.weights.zoo import ZOO, Published, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', help='such as caformer_s18 or caformer_s18.sail_in1k')


def run(args: argparse.Namespace) -> int:
    row = find(args.name.removeprefix('mmmeta://'))
    rows = _facts(row)
    if args.name == row.arch:
        tags = [other.tag for other in ZOO.values() if other.arch == row.arch]
        rows.insert(1, ('tags', ', '.join(tags)))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f'{label:{width}}  {value}')
    return 0


def _facts(row: Published) -> list[tuple[str, str]]:
    top1 = 'not given' if row.top1 is None else f'{row.top1} % on ImageNet-1k'
    facts = [
        ('name', row.name),
        ('checkpoint', f'mmmeta://{row.name}'),
        ('top-1', top1),
        ('parameters', f'{row.params:g} M'),
        ('MACs', f'{row.macs:g} G at {row.input_size}x{row.input_size}'),
        ('classes', str(row.num_classes)),
        ('input', f'{row.input_size}x{row.input_size}, crop {row.crop_pct:g}'),
        ('interpolation', row.interpolation),
        ('mean, std', f'{row.mean}, {row.std} (RGB, 0 to 1)'),
        ('layout', row.layout),
        ('license', row.license),
        ('paper', f'https://arxiv.org/abs/{row.paper}'),
        ('page', row.page),
    ]
    for i, source in enumerate(row.sources):
        by_hand = ' (manually, in a browser)' if source.manual else ''
        facts.append(('mirror' if i else 'address', source.url + by_hand))
    return facts
