"""`mmmeta info NAME`: what is known about a published checkpoint."""

import argparse

from mmmeta.weights.names import find
from mmmeta.weights.source import Source
from mmmeta.weights.trained import Trained
from mmmeta.weights.zoo import ZOO, Published

Facts = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'name',
        help='such as caformer_s18, caformer_s18.sail_in1k or mask_rcnn_poolformer_s12',
    )


def run(args: argparse.Namespace) -> int:
    row = find(args.name)
    if isinstance(row, Trained):
        rows = _of_trained(row)
    else:
        rows = _of_classifier(row)
        if args.name == row.arch:
            tags = [other.tag for other in ZOO.values() if other.arch == row.arch]
            rows.insert(1, ('tags', ', '.join(tags)))
    rows += _of_files(row.sources)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f'{label:{width}}  {value}')
    return 0


def _of_classifier(row: Published) -> Facts:
    top1 = 'not given' if row.top1 is None else f'{row.top1} % on ImageNet-1k'
    return [
        ('name', row.name),
        ('checkpoint', f'mmmeta://{row.name}'),
        ('task', row.task),
        ('config', f'mmmeta::{row.config}'),
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


def _of_trained(row: Trained) -> Facts:
    return [
        ('name', row.name),
        ('checkpoint', f'mmmeta://{row.name}'),
        ('task', row.task),
        ('config', f'mmmeta::{row.config}'),
        *[(metric, f'{value} on {row.data}') for metric, value in row.results.items()],
        ('test mode', row.test),
        ('published by', row.publisher),
        ('layout', row.layout),
        ('license', row.license),
        ('paper', f'https://arxiv.org/abs/{row.paper}'),
        ('page', row.page),
    ]


def _of_files(sources: tuple[Source, ...]) -> Facts:
    facts = []
    for i, source in enumerate(sources):
        facts.append(('mirror' if i else 'address', source.url))
        if source.sha256:
            facts.append(('SHA-256', f'{source.sha256} (beginning)'))
        if source.size:
            facts.append(('size', f'{source.size:,} bytes'))
    return facts
