"""`mmmeta predict CONFIG CHECKPOINT INPUT...`: pictures and files of results.

`inputs` lists the images, `writers` write the predictions.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.commands.arguments import ConfigOptions, positive
from mmmeta.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.hosts.predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='config file, or LIBRARY::PATH')
    parser.add_argument('checkpoint', help='a file, a URL or mmmeta://NAME')
    parser.add_argument(
        'inputs', metavar='INPUT', nargs='+', help='images, folders or patterns'
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('predictions'),
        help='folder for pictures and results (default: predictions)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive,
        default=1,
        metavar='N',
        help='images per batch (default: 1)',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: a GPU if any)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='do not draw lower scores; results have all of them (default: 0.3)',
    )
    parser.add_argument('--no-vis', action='store_true', help='draw no pictures')
    parser.add_argument(
        '--ann-file',
        metavar='JSON',
        help='COCO annotations whose image and class ids are used for detections',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings that override those of the config; nested keys with dots',
    )


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.predict.inputs import list_images, output_stems, relative_names
    from mmmeta.commands.predict.writers import WRITERS
    from mmmeta.hosts.predictor import build_predictor

    paths = list_images(args.inputs, args.out_dir)
    make_folder(args.out_dir)
    predictor = build_predictor(
        args.config, args.checkpoint, args.device, args.cfg_options
    )
    names = relative_names(paths)
    options = {} if args.ann_file is None else {'ann_file': args.ann_file}
    if options and predictor.task != 'detection':
        raise UserError(f'--ann-file needs a detector; {args.config} has none')
    writer = WRITERS[predictor.task](args.out_dir, predictor, names, **options)
    stems = dict(zip(names, output_stems(names), strict=True))
    failed = {}
    for i, image, outcome in _outcomes(predictor, paths, args.batch_size):
        if isinstance(outcome, Exception):
            failed[paths[i]] = outcome
            continue
        name = names[i]
        writer.add(name, stems[name], image, outcome)
        if not args.no_vis:
            picture = predictor.draw(image, outcome, args.score_thr)
            _write_picture(args.out_dir / 'vis' / f'{stems[name]}.jpg', picture)
    files = writer.close()
    if not args.no_vis:
        files[args.out_dir / 'vis'] = f'{len(paths) - len(failed)} pictures'
    for path, what in files.items():
        print(f'{path}: {what}')
    return _report(failed, len(paths))


def make_folder(path: Path) -> None:
    """Create a folder to write to.

    Raises:
        UserError: It cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out-dir {path}: {error.strerror}') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'--out-dir {path}: no permission to write there')


def _outcomes(
    predictor: 'Predictor', paths: Sequence[Path], batch_size: int
) -> Iterator[tuple[int, Any, Any]]:
    """Yield each image's index, pixels and data sample, or the error instead."""
    from tqdm import tqdm

    from mmmeta.hosts.predictor import read_image

    with tqdm(total=len(paths), unit='image', disable=None) as bar:
        for start in range(0, len(paths), batch_size):
            batch = range(start, min(start + batch_size, len(paths)))
            images = {}
            for i in batch:
                try:
                    images[i] = read_image(paths[i])
                except ValueError as error:
                    yield i, None, error
            samples = _predict(predictor, list(images.values()))
            for (i, image), sample in zip(images.items(), samples, strict=True):
                yield i, image, sample
            bar.update(len(batch))


def _predict(predictor: 'Predictor', images: list['np.ndarray']) -> list[Any]:
    """Return the images' data samples, or an exception for each that failed."""
    if not images:
        return []
    try:
        return predictor(images)
    except UserError:
        raise
    except Exception as error:
        if len(images) == 1:
            return [error]
        # One of them does not suit the pipeline, or the batch is too large.
        return [sample for image in images for sample in _predict(predictor, [image])]


def _write_picture(path: Path, picture: 'np.ndarray') -> None:
    import mmcv

    if not mmcv.imwrite(picture, str(path)):
        raise OSError(f'{path} could not be written')


def _report(failed: dict[Path, Exception], total: int) -> int:
    """List the images that failed; return the exit status."""
    for path, error in failed.items():
        print(f'{path}: {one_line(error)}', file=sys.stderr)
    if failed:
        print(f'{len(failed)} of {total} images failed', file=sys.stderr)
    return 1 if failed else 0
