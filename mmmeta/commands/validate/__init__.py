"""`mmmeta validate NAME DATA_DIR`: accuracy on a folder of class folders.

`accuracy` computes it.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from mmmeta.commands.arguments import positive
from mmmeta.commands.failures import Failures
from mmmeta.errors import UserError
from mmmeta.weights.zoo import Published, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'name',
        help='such as caformer_s18 or caformer_s18.sail_in1k; selects the model, its '
        'published weights and its preprocessing',
    )
    parser.add_argument('data_dir', type=Path, help='contains a folder per class')
    parser.add_argument(
        '--checkpoint',
        metavar='PATH',
        help='other weights for the model: a file, a URL or mmmeta://NAME',
    )
    parser.add_argument(
        '--class-map',
        metavar='FILE',
        help='names of the class folders, one per line, in class order '
        '(default: sorted)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive,
        default=64,
        metavar='N',
        help='images per batch (default: 64)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar='N',
        help='processes that read images; 0 for none (default: 4, or one per core)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU if any)')
    parser.add_argument(
        '--limit',
        type=positive,
        metavar='N',
        help='use N images, evenly spread over the classes',
    )
    parser.add_argument('--json', action='store_true', help='print a JSON object')


def run(args: argparse.Namespace) -> int:
    row = find(args.name.removeprefix('mmmeta://'))
    if not args.data_dir.is_dir():
        raise UserError(
            f'no folder {args.data_dir}; expected one with a folder per class'
        )

    from mmmeta.commands.validate.accuracy import (
        ClassFolders,
        evaluate,
        load_model,
        read_class_map,
    )
    from mmmeta.hosts.predictor import pick_device

    device = pick_device(args.device)
    model, num_classes = load_model(row, args.checkpoint)
    class_map = read_class_map(args.data_dir, num_classes, args.class_map)
    data = ClassFolders(args.data_dir, class_map, args.limit)
    result = evaluate(
        model,
        data,
        row,
        batch_size=args.batch_size,
        workers=args.workers,
        device=device,
    )
    facts = dict(
        model=row.name if args.checkpoint is None else row.arch,
        checkpoint=args.checkpoint or f'mmmeta://{row.name}',
        images=result.images,
        failed=len(result.failed),
        top1=result.top1,
        top5=result.top5,
        published_top1=row.top1 if args.checkpoint is None else None,
        images_per_second=result.images_per_second,
        device=device,
        input_size=row.input_size,
        crop_pct=row.crop_pct,
        interpolation=row.interpolation,
        mean=row.mean,
        std=row.std,
    )
    print(json.dumps(facts) if args.json else _table(facts, row))
    failures = Failures()
    for path in result.failed:
        failures.add(path, ValueError(data.reason(path)), 'cannot be read')
    status = failures.report(len(data), ' and do not count')
    if result.not_finite:
        print(
            f'{result.not_finite} of {len(data)} images have NaN or infinite logits, '
            'and count as wrong',
            file=sys.stderr,
        )
        status = 1
    return status


def _table(facts: dict[str, Any], row: Published) -> str:
    published = facts['published_top1']
    return '\n'.join(
        [
            f'model       {facts["model"]}',
            f'checkpoint  {facts["checkpoint"]}',
            f'images      {facts["images"]}, {row.input_size}x{row.input_size}, '
            f'crop {row.crop_pct:g}, {row.interpolation}',
            f'top-1       {facts["top1"]:.2f} %'
            + (f' (published: {published})' if published is not None else ''),
            f'top-5       {facts["top5"]:.2f} %',
            f'speed       {facts["images_per_second"]:.1f} images/s '
            f'on {facts["device"]}',
        ]
    )
