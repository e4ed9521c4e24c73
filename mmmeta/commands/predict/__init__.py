"""`mmmeta predict MODEL INPUT...`: pictures and files of results.

`inputs` lists the images, `writers` and `detections` write the predictions, `journal`
keeps them until the run is complete.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.commands.arguments import (
    MODEL_OR_FILE,
    add_cfg_options,
    positive,
    split_model,
)
from mmmeta.commands.failures import Failures
from mmmeta.commands.files import (
    DiskError,
    disk_errors,
    ignores_case,
    make_folder,
    write_whole,
)
from mmmeta.errors import NoResultError, UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.hosts.predictor import Predictor


USAGE = f'mmmeta predict {MODEL_OR_FILE} INPUT...'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = f'%(prog)s [options] {MODEL_OR_FILE} INPUT...'
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL INPUT',
        help='a published model (`mmmeta list --task detection`), a file of `mmmeta '
        'export`, or a config (a file, or LIBRARY::PATH) and its checkpoint (a file, a '
        'URL or mmmeta://NAME); then images, folders or patterns',
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
        '--shard',
        metavar='I/N',
        help='only every Nth image, from the Ith; of N processes with the same '
        '--out-dir the last one to finish writes the results of all (default: all '
        "images, or by torchrun's processes)",
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep the results of an earlier run that ended early, and go on',
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.predict.inputs import (
        check_overwriting,
        list_images,
        output_stems,
        relative_names,
    )
    from mmmeta.commands.predict.journal import parse_shard
    from mmmeta.commands.predict.writers import WRITERS
    from mmmeta.hosts.images import to_jpeg
    from mmmeta.runtime import is_exported

    shard = parse_shard(args.shard)
    exported = is_exported(args.words[0])
    if exported:
        config, *inputs = args.words
    else:
        config, checkpoint, inputs = split_model(args.words, USAGE)
    if not inputs:
        raise UserError(f'no input: {USAGE}')
    paths = list_images(inputs, args.out_dir)
    make_folder(args.out_dir, '--out-dir')
    names = relative_names(paths)
    stems = output_stems(names, ignores_case(args.out_dir))
    check_overwriting(paths, stems, args.out_dir)
    if exported:
        predictor: Any = _open(config, args)
    else:
        from mmmeta.hosts.predictor import build_predictor

        predictor = build_predictor(config, checkpoint, args.device, args.cfg_options)
    options = {} if args.ann_file is None else {'ann_file': args.ann_file}
    if options and predictor.task != 'detection':
        raise UserError(f'--ann-file needs a detector; {config} has none')
    if not args.no_vis:
        make_folder(args.out_dir / 'vis')
    writer = WRITERS[predictor.task](
        args.out_dir, predictor, paths, names, shard, args.resume, **options
    )
    chosen = [i for i in shard.of(len(paths)) if names[i] not in writer.journal.done]
    failures = Failures()
    drawn = 0
    try:
        for i, image, sample in _samples(
            predictor, paths, chosen, args.batch_size, failures
        ):
            written = False
            with failures.of(paths[i]):
                left_out = writer.add(names[i], stems[i], image, sample)
                written = True
                if left_out:
                    raise ValueError(left_out)
            if args.no_vis or not written:
                continue
            with failures.of(paths[i], 'not drawn'):
                picture = predictor.draw(image, sample, args.score_thr)
                write_whole(args.out_dir / 'vis' / f'{stems[i]}.jpg', to_jpeg(picture))
                drawn += 1
        with disk_errors():
            files = writer.close()
    except DiskError as error:
        raise UserError(f'{error}; {writer.kept()}') from error
    except KeyboardInterrupt:
        print(printable(writer.kept()), file=sys.stderr)
        raise
    if not args.no_vis:
        files[args.out_dir / 'vis'] = f'{drawn} pictures'
    for path, what in files.items():
        print(printable(f'{path}: {what}'))
    return failures.report(len(chosen))


def _open(path: str, args: argparse.Namespace) -> Any:
    """Return an exported model as a predictor."""
    from mmmeta.commands.predict.exported import ExportedPredictor

    if args.cfg_options:
        raise UserError(
            f'--cfg-options is for a config; {path} is exported: export it anew'
        )
    return ExportedPredictor(Path(path), args.device)


def _samples(
    predictor: 'Predictor',
    paths: Sequence[Path],
    chosen: Sequence[int],
    batch_size: int,
    failures: Failures,
) -> Iterator[tuple[int, 'np.ndarray', Any]]:
    """Yield the index, pixels and data sample of each image that did not fail."""
    from tqdm import tqdm

    from mmmeta.hosts.images import read_image

    with tqdm(total=len(chosen), unit='image', disable=None) as bar:
        for start in range(0, len(chosen), batch_size):
            batch = chosen[start : start + batch_size]
            images = {}
            for i in batch:
                with failures.of(paths[i]):
                    images[i] = read_image(paths[i], predictor.channels)
            outcomes = _predict(predictor, list(images.values()))
            for (i, image), outcome in zip(images.items(), outcomes, strict=True):
                if isinstance(outcome, Exception):
                    failures.add(paths[i], outcome)
                else:
                    yield i, image, outcome
            bar.update(len(batch))


def _predict(predictor: 'Predictor', images: list['np.ndarray']) -> list[Any]:
    """Return the images' data samples, or an exception for each that failed."""
    if not images:
        return []
    try:
        samples = predictor(images)
        if len(samples) != len(images):
            raise ValueError(f'{len(samples)} results for {len(images)} images')
        return samples
    except NoResultError:
        raise
    except Exception as error:
        if len(images) == 1:
            return [error]
    # One of them does not suit the pipeline, or the batch is too large.
    return [sample for image in images for sample in _predict(predictor, [image])]
