"""`mmmeta export MODEL`: a trained model as one file."""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmmeta.commands.arguments import MODEL, add_cfg_options, split_model
from mmmeta.commands.files import disk_errors, make_folder
from mmmeta.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.hosts.predictor import Predictor
    from mmmeta.runtime.model import Result

USAGE = f'mmmeta export {MODEL} [-o FILE]'
FORMATS = {'onnx': '.onnx', 'openvino': '.xml', 'pt2': '.pt2'}
# Of the file with the model's own result on the same prepared image. Bfloat16 and half
# precision move scores and borders.
LEAST = {False: 0.98, True: 0.8}
MOST_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = f'%(prog)s [options] {MODEL}'
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL',
        help='a published model (`mmmeta list --task detection`), or a config (a file, '
        'or LIBRARY::PATH) and its checkpoint (a file, a URL or mmmeta://NAME)',
    )
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        metavar='FILE',
        help="the file to write (default: the config's name and the format's suffix)",
    )
    parser.add_argument(
        '--format',
        choices=FORMATS,
        help='onnx, openvino (FILE.xml and FILE.bin) or pt2 (PyTorch); default: the '
        "file's suffix, else onnx",
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='store the weights in half precision; OpenVINO also computes in bfloat16',
    )
    parser.add_argument(
        '--scores',
        action='store_true',
        help="of a segmentor, also the classes' probabilities of each pixel",
    )
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        help='images to compare the file with the model on (default: built-in ones)',
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    from mmmeta.export.compare import agreement
    from mmmeta.export.files import WRITERS, metadata_of, trace
    from mmmeta.export.model import whole_model
    from mmmeta.hosts.predictor import build_predictor
    from mmmeta.runtime import open_model
    from mmmeta.weights.locate import locate

    config, checkpoint, rest = split_model(args.words, USAGE)
    if rest:
        raise UserError(f'unexpected {rest[0]!r}; expected {USAGE}')
    path, kind = _target(args.out, args.format, config)
    if args.half and kind == 'pt2':
        raise UserError('--half is for onnx and openvino')
    make_folder(path.parent)
    images = _images(args.images)
    predictor = build_predictor(config, checkpoint, 'cpu', args.cfg_options)
    if predictor.channels != 3:
        raise UserError(
            f'{config} takes images of {predictor.channels} channels; expected 3'
        )
    by_host = [host_result(predictor, predictor(image)) for image in images]
    whole: Any = whole_model(predictor, args.scores)
    metadata = metadata_of(predictor, whole.outputs, config, locate(checkpoint))
    by_model = [_run(whole, image, metadata) for image in images]
    program = trace(whole)
    # An older file stays until the new one is known to be right.
    with disk_errors(), TemporaryDirectory(prefix='.', dir=path.parent) as folder:
        new = Path(folder, path.name)
        WRITERS[kind](program, new, metadata, args.half)
        model = open_model(new)
        found = [model(image[..., ::-1]) for image in images]
        same = agreement(by_model, found)
        if same.share < LEAST[args.half]:
            raise UserError(
                f'the file finds other things than the model: {same} on {len(found)} '
                f'images; {path} was not written. Try another --format'
            )
        # The weights first: FILE.xml is what is opened.
        written = sorted(new.parent.iterdir(), key=lambda file: file.suffix)
        for file in written:
            os.replace(file, path.with_name(file.name))
    size = sum(path.with_name(file.name).stat().st_size for file in written)
    names = [str(path.with_name(file.name)) for file in written]
    print(printable(f'{" and ".join(names)}: {size / 1e6:.1f} MB'))
    print(f'with the model on the same pixels: {same}')
    by_pipeline = agreement(by_host, found)
    print(f'with the model and its own test pipeline: {by_pipeline}')
    print(printable(f'use it: mmmeta predict {path} IMAGE...'))
    return 0


def _target(out: Path | None, kind: str | None, config: str) -> tuple[Path, str]:
    """Return the file to write and its format."""
    suffixes = {suffix: name for name, suffix in FORMATS.items()}
    if out is None:
        kind = kind or 'onnx'
        return Path(f'{Path(config.split("::")[-1]).stem}{FORMATS[kind]}'), kind
    expected = suffixes.get(out.suffix)
    if expected is None or kind not in (None, expected):
        wanted = FORMATS[kind] if kind else ' or '.join(suffixes)
        raise UserError(f'-o {out}: expected a name that ends with {wanted}')
    return out, expected


def _images(folder: str | None) -> list['np.ndarray']:
    """Return images to compare on, uint8 (H, W, 3), BGR."""
    from mmmeta.commands.predict.inputs import list_images
    from mmmeta.hosts.images import read_image

    if folder is None:
        return _built_in()
    paths = list_images([folder], Path('-'))
    step = max(1, len(paths) // MOST_IMAGES)
    return [read_image(path) for path in paths[::step][:MOST_IMAGES]]


def _built_in() -> list['np.ndarray']:
    """Return a photograph of Matplotlib's, in three shapes."""
    import cv2
    from matplotlib.cbook import get_sample_data

    from mmmeta.hosts.images import read_image

    photo = read_image(get_sample_data('grace_hopper.jpg', asfileobj=False))
    wide = cv2.resize(photo[:300], (640, 360), interpolation=cv2.INTER_AREA)
    return [photo, wide, photo[60:300, 100:260].copy()]


def host_result(predictor: 'Predictor', sample: Any) -> 'Result':
    """Return what the host library found."""
    from mmmeta.runtime import Detections, LabelMap, Probabilities

    if predictor.task == 'segmentation':
        return LabelMap(predictor.label_map(sample).astype('int64'))
    if predictor.task == 'classification':
        return Probabilities(predictor.probabilities(sample))
    found = sample.pred_instances.cpu()
    masks = found.masks.numpy().astype(bool) if 'masks' in found else None
    return Detections(
        found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks
    )


def _run(whole: Any, image: 'np.ndarray', metadata: dict[str, str]) -> 'Result':
    """Return what the whole model finds in PyTorch."""
    import torch

    from mmmeta.runtime.model import to_result

    with torch.inference_mode():
        outputs = whole(torch.from_numpy(image[..., ::-1].copy()))
    arrays = [output.numpy() for output in outputs]
    return to_result(
        metadata, dict(zip(whole.outputs, arrays, strict=True)), image.shape[:2]
    )
