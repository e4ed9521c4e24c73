"""`mmmeta info NAME`: what is known about a published checkpoint, or one's own."""

import argparse
import os
import re
from collections.abc import Mapping
from typing import Any

from mmmeta.archs.families import FAMILIES
from mmmeta.errors import printable
from mmmeta.weights.names import find
from mmmeta.weights.source import Source
from mmmeta.weights.trained import Trained
from mmmeta.weights.zoo import ZOO, Published

Facts = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'name',
        help='such as caformer_s18, caformer_s18.sail_in1k or '
        'mask_rcnn_poolformer_s12; or a checkpoint, of which it prints the classes',
    )


def run(args: argparse.Namespace) -> int:
    # Sharded checkpoints are folders (`mmmeta.weights.parts`).
    if os.path.isfile(args.name) or args.name.rstrip('/').endswith('.dcp'):
        _show(_of_file(args.name))
        return 0
    row = find(args.name)
    if isinstance(row, Trained):
        rows = _of_trained(row)
    else:
        rows = _of_classifier(row)
        if args.name == row.arch:
            tags = [other.tag for other in ZOO.values() if other.arch == row.arch]
            rows.insert(1, ('tags', ', '.join(tags)))
    _show(rows + _of_files(row.sources))
    return 0


def _show(rows: Facts) -> None:
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f'{label:{width}}  {printable(value)}')


def _of_file(path: str) -> Facts:
    """Return what a checkpoint says of itself.

    Raises:
        CheckpointError: It cannot be read.
    """
    from mmmeta.hosts.classes import names_in
    from mmmeta.weights.reading import read_file, unwrap

    content = read_file(path)
    state = unwrap(content, path)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    count = sum(getattr(value, 'numel', lambda: 0)() for value in state.values())
    facts = [('file', path), ('values', f'{count:,} in {len(state):,} tensors')]
    text = meta.get('cfg')
    if isinstance(text, str):
        facts += _of_config(text)
    for key, label in (('epoch', 'epochs'), ('time', 'saved')):
        if key in meta:
            facts.append((label, str(meta[key])))
    names = names_in(meta)
    facts.append(('classes', str(len(names.classes)) if names.classes else 'unknown'))
    for i, (name, color) in enumerate(zip(names.classes, names.palette, strict=True)):
        facts.append((f'{i:>7}', f'{name}  #{bytes(color).hex()}'))
    return facts


def _of_config(text: str) -> list[tuple[str, Any]]:
    """Return the model that a config's text names, without executing it."""
    model = re.search(r'^model = dict\((?:.*\n)*?    type=\'(\w+)\'\)?,?$', text, re.M)
    types = '|'.join([*(family.name for family in FAMILIES), 'MetaFormer'])
    backbone = re.search(rf"type='mmmeta\.({types})'", text)
    size = re.search(r"arch='(\w+)'", text)
    facts = [('model', model[1])] if model else []
    if backbone:
        facts.append(('backbone', f'{backbone[1]} {size[1] if size else ""}'.strip()))
    return facts


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
