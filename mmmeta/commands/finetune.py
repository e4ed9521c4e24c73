"""`mmmeta finetune PATH`: a model for one's own data, and the config that trains it."""

import argparse
from pathlib import Path
from typing import Any

from mmmeta.commands.arguments import natural, positive
from mmmeta.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mmmeta.tuning.plan import METHODS

    parser.add_argument(
        'path',
        type=Path,
        nargs='?',
        metavar='PATH',
        help='folder of a data set: COCO, YOLO, Pascal VOC, LabelMe, maps or class '
        'folders; or a COCO file or a data.yaml (`mmmeta data PATH` describes it)',
    )
    parser.add_argument('--method', choices=METHODS, help='default: by the annotations')
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        help='such as caformer_s18, of those that `mmmeta list` prints (default: '
        'poolformer_s12, or that of --weights)',
    )
    parser.add_argument(
        '--weights',
        '--from',
        default='zoo',
        metavar='WEIGHTS',
        help="zoo: the backbone's published ones; none: random ones; or a whole "
        "model's checkpoint: a file, a URL or a published name (`mmmeta list --task "
        'detection`), without what depends on the number of classes (default: zoo)',
    )
    parser.add_argument(
        '--epochs',
        type=positive,
        metavar='N',
        help='passes over the training images (default: by their number, 12 to 100)',
    )
    parser.add_argument(
        '--batch-size', type=positive, metavar='N', help='images per step'
    )
    parser.add_argument(
        '--image-size',
        type=positive,
        nargs='+',
        metavar='PIXELS',
        help='longer and shorter side, or one number for both (default: that of the '
        "published models, or the images' if they are smaller)",
    )
    parser.add_argument(
        '--frozen-stages',
        type=int,
        choices=range(-1, 5),
        default=-1,
        metavar='N',
        help='stages of the backbone that are not trained, 0 (the stem) to 4 '
        '(default: -1, none)',
    )
    parser.add_argument(
        '--seed', type=natural, default=0, help='random seed (default: 0)'
    )
    parser.add_argument(
        '--workers',
        type=natural,
        metavar='N',
        help='processes that read images (default: one per core, at most 4)',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        metavar='FOLDER',
        help='for the config, logs and checkpoints (default: '
        'work_dirs/NAME-OF-PATH_METHOD)',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='only write FOLDER/config.py'
    )
    parser.add_argument(
        '--config',
        type=Path,
        metavar='FILE',
        help='train a config that was written before, instead of PATH',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='with --config: go on from the newest checkpoint in its work dir',
    )


def run(args: argparse.Namespace) -> int:
    from mmmeta.tuning.train import CONFIG, finetune, train

    if (args.path is None) == (args.config is None):
        raise UserError('expected PATH, a data set, or --config FILE')
    if args.resume and not args.config:
        raise UserError('--resume needs --config FILE, that of the run to go on with')
    if args.config:
        train(args.config, args.work_dir or args.config.parent, args.resume)
        return 0
    size: Any = args.image_size
    if size is not None and len(size) > 2:
        raise UserError('--image-size takes one or two numbers')
    folder = finetune(
        args.path,
        work_dir=args.work_dir,
        method=args.method,
        backbone=args.backbone,
        weights=args.weights,
        epochs=args.epochs,
        batch_size=args.batch_size,
        image_size=size and (size[0], size[-1]),
        frozen_stages=args.frozen_stages,
        seed=args.seed,
        workers=args.workers,
        dry_run=args.dry_run,
    )
    if args.dry_run:
        config = folder / CONFIG
        print(printable(f'wrote {config}; train: mmmeta finetune --config {config}'))
    return 0
