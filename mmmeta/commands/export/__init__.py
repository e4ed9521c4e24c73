"""`mmmeta export MODEL`: a trained model as one file.

`images` reads what the file is compared and calibrated on, `accuracy` measures it.
"""

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmmeta.commands.arguments import MODEL, add_cfg_options, positive, split_model
from mmmeta.commands.files import disk_errors, make_folder
from mmmeta.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.commands.export.accuracy import Measure
    from mmmeta.export.compare import Agreement
    from mmmeta.hosts.predictor import Predictor
    from mmmeta.runtime.model import Result

USAGE = f'mmmeta export {MODEL} [-o FILE]'
FORMATS = {'onnx': '.onnx', 'openvino': '.xml', 'pt2': '.pt2'}
# The share of detections, pixels or images that must agree with the model on the same
# pixels. Bfloat16 and half precision move scores and borders.
LEAST, LEAST_HALF = 0.98, 0.8
LEAST_INT8 = 0.3  # of another model, in a way; the loss of accuracy is the measure


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
        choices=['auto', *FORMATS],
        help='onnx, openvino (FILE.xml and FILE.bin) or pt2 (PyTorch); auto is the '
        'fastest: openvino where it is installed, else onnx (default: that of the '
        "file's suffix, else auto)",
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='store the weights in half precision; OpenVINO also computes in bfloat16',
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='quantize to 8 bits, a quarter of the size: with ONNX Runtime for onnx, '
        'with NNCF for openvino',
    )
    parser.add_argument(
        '--calibrate',
        metavar='FOLDER',
        help='images for --int8, like those that the model will be used on; up to 100',
    )
    parser.add_argument(
        '--batch-size',
        type=positive,
        metavar='N',
        help='the file takes N images of the same size (N, H, W, 3), and its results '
        'have that dimension too (default: one image (H, W, 3))',
    )
    parser.add_argument(
        '--model-api',
        action='store_true',
        help="for OpenVINO's Model API, `Model.create_model(FILE)`: the file takes one "
        'image as a batch (1, H, W, 3), and boxes are relative to its size',
    )
    parser.add_argument(
        '--scores',
        action='store_true',
        help="of a segmentor, also the classes' probabilities of each pixel",
    )
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        help='images to compare the file with the model on (default: those of '
        '--calibrate, else built-in ones)',
    )
    parser.add_argument(
        '--annotations',
        metavar='PATH',
        help="of the images, to compare the file's accuracy with the model's: COCO's "
        'JSON, a folder of PNG maps with the names of the images, or the folder of the '
        "classes' folders",
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    from mmmeta.commands.export.images import Calibration, to_compare
    from mmmeta.export.compare import agreement
    from mmmeta.export.files import WRITERS, metadata_of, model_api_info, trace
    from mmmeta.export.model import whole_model
    from mmmeta.hosts.predictor import build_predictor
    from mmmeta.runtime import open_model
    from mmmeta.weights.locate import locate

    config, checkpoint, rest = split_model(args.words, USAGE)
    if rest:
        raise UserError(f'unexpected {rest[0]!r}; expected {USAGE}')
    path, kind = _target(args.out, args.format, config)
    _check_options(args, kind)
    make_folder(path.parent)
    batch = 1 if args.model_api else args.batch_size
    folder = args.images or args.calibrate
    images = to_compare(folder)
    calibration = Calibration(args.calibrate, batch) if args.int8 else None
    predictor = build_predictor(config, checkpoint, 'cpu', args.cfg_options)
    if predictor.channels != 3:
        raise UserError(
            f'{config} takes images of {predictor.channels} channels; expected 3'
        )
    accuracy = _Accuracy(args.annotations, folder, predictor)
    accuracy.measure('model', lambda image: predictor.result(predictor(image)))
    by_host = [predictor.result(predictor(image)) for image in images]
    whole: Any = whole_model(predictor, args.scores, batch is not None, args.model_api)
    metadata = metadata_of(predictor, whole.outputs, config, locate(checkpoint))
    if batch is not None:
        metadata['batch_size'] = str(batch)
    if args.model_api:
        metadata |= model_api_info(predictor, whole.wrapper)
    by_model = [_run(whole, image, metadata) for image in images]
    program = trace(whole, batch)
    # An older file stays until the new one is known to be right.
    place = path.parent
    with disk_errors(place), TemporaryDirectory(prefix='.', dir=place) as temporary:
        new = Path(temporary, path.name)
        quantize = WRITERS[kind](program, new, metadata, args.half)

        def compared(least: float) -> 'tuple[list[Result], Agreement]':
            model = open_model(new)
            found = [model(image[..., ::-1]) for image in images]
            same = agreement(by_model, found)
            if same.share < least:
                raise UserError(
                    f'the file finds other things than the model: {same} on '
                    f'{len(found)} images; {path} was not written. Try another --format'
                )
            return found, same

        found, same = compared(LEAST_HALF if args.half else LEAST)
        lines = [f'with the model on the same pixels: {same}']
        if calibration is not None:
            quantize(calibration)
            found, same = compared(LEAST_INT8)
            lines.append(f'after quantization to int8: {same}')
        lines.append(
            f'with the model and its own test pipeline: {agreement(by_host, found)}'
        )
        model = open_model(new)
        accuracy.measure('file', lambda image: model(image[..., ::-1]))
        # The weights first: FILE.xml is what is opened.
        written = sorted(new.parent.iterdir(), key=lambda file: file.suffix)
        for file in written:
            os.replace(file, path.with_name(file.name))
    size = sum(path.with_name(file.name).stat().st_size for file in written)
    names = [str(path.with_name(file.name)) for file in written]
    print(printable(f'{" and ".join(names)}: {size / 1e6:.1f} MB'))
    print('\n'.join([*lines, *accuracy.lines()]))
    print(printable(f'use it: mmmeta predict {path} IMAGE...'))
    return 0


def _check_options(args: argparse.Namespace, kind: str) -> None:
    """Check options that depend on each other."""
    if kind == 'pt2' and (args.half or args.int8):
        raise UserError(f'--{"half" if args.half else "int8"} is for onnx and openvino')
    if args.int8 and args.half and kind == 'onnx':
        raise UserError('--int8 and --half together are for openvino')
    if args.int8 != (args.calibrate is not None):
        raise UserError(
            '--int8 needs --calibrate FOLDER, with images like those that the model '
            'will be used on'
            if args.int8
            else '--calibrate is for --int8'
        )
    if args.model_api and (
        kind != 'openvino' or args.batch_size is not None or args.scores
    ):
        raise UserError(
            '--model-api is for openvino, without --batch-size and --scores'
        )
    if args.annotations and not (args.images or args.calibrate):
        raise UserError('--annotations needs --images FOLDER')


class _Accuracy:
    """The accuracy of the model and of the file, if there are annotations.

    Args:
        annotations: As `make_measure` takes them; None: nothing is measured.
        folder: The images' folder.
        predictor: The model.
    """

    def __init__(
        self, annotations: str | None, folder: str | None, predictor: 'Predictor'
    ) -> None:
        self.measures: dict[str, Measure] = {}
        if annotations is None:
            return
        from mmmeta.commands.export.accuracy import make_measure
        from mmmeta.commands.predict.inputs import list_images

        paths = list_images([str(folder)], Path('-'))
        for name in ('model', 'file'):
            self.measures[name] = make_measure(Path(annotations), paths, predictor)

    def measure(self, name: str, run: 'Callable[[np.ndarray], Result]') -> None:
        """Run the model or the file on all annotated images, BGR."""
        from tqdm import tqdm

        from mmmeta.commands.export.images import read

        if name not in self.measures:
            return
        measure = self.measures[name]
        for i, path in enumerate(tqdm(measure.paths, name, unit='image', disable=None)):
            measure.add(i, run(read(path)))

    def lines(self) -> list[str]:
        """Return a line for each metric."""
        if not self.measures:
            return []
        count = len(self.measures['model'].paths)
        before, after = (measure.figures() for measure in self.measures.values())
        return [
            f'{name} on {count} images: {before[name]:.2f}, in the file '
            f'{after[name]:.2f} ({after[name] - before[name]:+.2f})'
            for name in before
        ]


def _target(out: Path | None, kind: str | None, config: str) -> tuple[Path, str]:
    """Return the file to write and its format."""
    suffixes = {suffix: name for name, suffix in FORMATS.items()}
    if kind == 'auto' or (kind is None and out is None):
        kind = 'openvino' if find_spec('openvino') else 'onnx'
    if out is None:
        assert kind is not None
        return Path(f'{Path(config.split("::")[-1]).stem}{FORMATS[kind]}'), kind
    expected = suffixes.get(out.suffix)
    if expected is None or kind not in (None, expected):
        wanted = FORMATS[kind] if kind else ' or '.join(suffixes)
        raise UserError(f'-o {out}: expected a name that ends with {wanted}')
    return out, expected


def _run(whole: Any, image: 'np.ndarray', metadata: dict[str, str]) -> 'Result':
    """Return what the whole model finds in PyTorch."""
    import torch

    from mmmeta.runtime.model import to_result

    pixels = torch.from_numpy(image[..., ::-1].copy())
    batch = int(metadata.get('batch_size', 0))
    with torch.inference_mode():
        outputs = whole(pixels.expand(batch, -1, -1, -1) if batch else pixels)
    arrays = [output[0].numpy() if batch else output.numpy() for output in outputs]
    return to_result(
        metadata, dict(zip(whole.outputs, arrays, strict=True)), image.shape[:2]
    )
