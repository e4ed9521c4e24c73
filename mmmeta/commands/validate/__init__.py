"""`mmmeta validate NAME DATA_DIR`: a published model on a user's data.

`accuracy` measures classifiers on class folders, `dense` detectors on COCO and
segmentors on ADE20K.
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
from mmmeta.hosts.options import ConfigOptions
from mmmeta.weights.names import find
from mmmeta.weights.trained import Trained
from mmmeta.weights.zoo import Published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'name',
        help='such as caformer_s18.sail_in1k or mask_rcnn_poolformer_s12; selects the '
        'model, its published weights and its preprocessing',
    )
    parser.add_argument(
        'data_dir',
        type=Path,
        nargs='?',
        help='for a classifier a folder with a folder per class; for others COCO or '
        'ADE20K, as in README.md (default: data/coco or data/ade/ADEChallengeData2016)',
    )
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
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.3,
        metavar='POINTS',
        help='exit with 1 if a detector or segmentor differs by more from its '
        'published result (default: 0.3)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test a segmentor at several scales and flips',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help="settings that override those of a detector's or segmentor's config",
    )
    parser.add_argument('--json', action='store_true', help='print a JSON object')


def run(args: argparse.Namespace) -> int:
    row = find(args.name)
    kind = 'COCO or ADE20K' if isinstance(row, Trained) else 'a folder per class'
    if args.data_dir and not args.data_dir.is_dir():
        raise UserError(f'no folder {args.data_dir}; expected one with {kind}')
    if isinstance(row, Trained):
        from mmmeta.commands.validate.dense import validate

        return validate(row, args)
    if not args.data_dir:
        raise UserError(f'{row.name} needs DATA_DIR, a folder with {kind}')

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
    status = failures.report(len(data), ' and are not counted')
    if result.not_finite:
        print(
            f'{result.not_finite} of {len(data)} images have NaN or infinite logits '
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
