"""`mmmeta explain IMAGE --models MODEL`: where models look, side by side.

`subjects` builds the models, `maps` computes the maps.
"""

import argparse
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmmeta.commands.failures import Failures
from mmmeta.commands.files import make_folder, unique_name, write_whole
from mmmeta.errors import UserError, printable, require

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.commands.explain.maps import Explanation, Subject

    Row: TypeAlias = tuple[Path, np.ndarray]
    # Results for the images; None for those that failed.
    Column: TypeAlias = tuple[Subject, list[Explanation | None]]

METHODS = {
    'gradcam': 'GradCAM',
    'gradcam++': 'GradCAMPlusPlus',
    'hirescam': 'HiResCAM',
    'xgradcam': 'XGradCAM',
    'layercam': 'LayerCAM',
    'eigencam': 'EigenCAM',
    'eigengradcam': 'EigenGradCAM',
}
COLUMN = 2.6  # inches
LINE = 0.2
DPI = 150
MAX_SIDE = 65_000  # pixels, matplotlib's maximum


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument(
        '--models',
        nargs='+',
        required=True,
        metavar='MODEL[=CHECKPOINT]',
        help='a name from `mmmeta list`, timm:NAME, or CONFIG.py=CHECKPOINT; without a '
        'checkpoint the published weights are downloaded',
    )
    parser.add_argument(
        '--method',
        choices=METHODS,
        help='default: gradcam for classifiers, hirescam for detectors and segmentors',
    )
    parser.add_argument(
        '--target',
        type=int,
        metavar='CLASS',
        help='index of the class (default: the class with the highest score)',
    )
    parser.add_argument(
        '--layer',
        help='name of the module to visualize in all models (default: last stage)',
    )
    parser.add_argument(
        '--random',
        action='store_true',
        help='keep models without a checkpoint untrained and download nothing',
    )
    parser.add_argument(
        '--out', default='explain.png', help='output picture (default: %(default)s)'
    )
    parser.add_argument(
        '--out-dir', help='also write each panel as .png and its map as .npy there'
    )
    parser.add_argument('--device', help='such as cuda:0 (default: a GPU if available)')


def run(args: argparse.Namespace) -> int:
    library = require('pytorch_grad_cam', 'explain', 'mmmeta explain')
    from matplotlib.backend_bases import FigureCanvasBase
    from tqdm import tqdm

    from mmmeta.commands.explain.maps import OptionError, explain
    from mmmeta.commands.explain.subjects import load_subject
    from mmmeta.hosts.predictor import pick_device

    formats = FigureCanvasBase.get_supported_filetypes()
    if Path(args.out).suffix[1:].lower() not in formats:
        raise UserError(f'--out must end in .png or .pdf, got {args.out}')
    failures = Failures()
    images = _read_all(args.images, failures)
    device = pick_device(args.device)
    if args.out_dir:
        make_folder(Path(args.out_dir), '--out-dir')
    columns: list[Column] = []
    taken: set[str] = set()
    for spec in tqdm(args.models, disable=None):
        subject = load_subject(spec, device, args.random, args.layer)
        method = args.method or ('hirescam' if subject.dense else 'gradcam')
        cam = getattr(library, METHODS[method])
        found: list[Explanation | None] = []
        for row, (path, image) in enumerate(images, 1):
            found.append(None)
            with failures.of(path, spec, (OptionError,)):
                found[-1] = explanation = explain(subject, image, cam, args.target)
                print(printable(f'{path}  {spec}  {method}  {explanation.label}'))
                if args.out_dir:
                    # Images in different folders may have the same name, as may models.
                    name = f'{row}_{path.stem}_{subject.name}'
                    name = name.translate(str.maketrans(' :/', '___'))
                    stem = unique_name(name, taken, len('.npy'), ignore_case=True)
                    _write_panel(Path(args.out_dir) / stem, image, explanation.heat)
        columns.append((subject, found))
    if any(any(found) for _, found in columns):
        print(printable(f'wrote {_draw_grid(Path(args.out), images, columns)}'))
    if args.out_dir:
        print(printable(f'wrote {args.out_dir}'))
    return failures.report(len(args.images))


def _read_all(paths: Sequence[str], failures: Failures) -> 'list[Row]':
    """Return the readable images, each (H, W, 3), uint8, RGB.

    Raises:
        UserError: None of them can be read.
    """
    from mmmeta.hosts.images import read_image

    rows: list[Row] = []
    for path in paths:
        try:
            rows.append((Path(path), read_image(path)[..., ::-1].copy()))
        except ValueError as error:
            if len(paths) == 1:
                raise UserError(f'image {path} cannot be read: {error}') from error
            failures.add(path, error, 'cannot be read')
    if not rows:
        failures.report(len(paths))
        raise UserError('no image can be read')
    return rows


def _write_panel(stem: Path, image: 'np.ndarray', heat: 'np.ndarray') -> None:
    """Write a map as STEM.npy, and then a picture of it as STEM.png."""
    import numpy as np
    from PIL import Image

    from mmmeta.commands.explain.maps import overlay

    for suffix in ('.npy', '.png'):
        data = io.BytesIO()
        if suffix == '.npy':
            np.save(data, heat)
        else:
            Image.fromarray(overlay(image, heat)).save(data, 'png')
        write_whole(stem.with_name(stem.name + suffix), data.getvalue())


def _draw_grid(out: Path, rows: 'list[Row]', columns: 'list[Column]') -> Path:
    """Draw a row for each image and a column for each model, the images first."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from mmmeta.commands.explain.maps import overlay

    # The row of a narrow strip is not as high as the image.
    heights = [
        COLUMN * min(max(image.shape[0] / image.shape[1], 0.1), 10) for _, image in rows
    ]
    title_lines = max(subject.title.count('\n') + 1 for subject, _ in columns)
    width = COLUMN * (1 + len(columns))
    height = sum(heights) + LINE * (title_lines + len(rows))
    with warnings.catch_warnings(), rc_context({'text.parse_math': False}):
        warnings.filterwarnings('ignore', message='Glyph ')  # missing in the font
        figure = Figure((width, height), layout='constrained')
        axes = figure.subplots(
            len(rows), 1 + len(columns), squeeze=False, height_ratios=heights
        )
        for row, (path, image) in enumerate(rows):
            axes[row, 0].imshow(image)
            axes[row, 0].set_xlabel(printable(path.name), fontsize='small')
            for column, (_, found) in enumerate(columns, 1):
                explanation = found[row]
                if explanation is None:
                    axes[row, column].set_xlabel('failed', fontsize='small')
                    continue
                axes[row, column].imshow(overlay(image, explanation.heat))
                axes[row, column].set_xlabel(explanation.label, fontsize='small')
        axes[0, 0].set_title('image', fontsize='small')
        for axis, (subject, _) in zip(axes[0, 1:], columns, strict=True):
            title = '\n'.join(map(printable, subject.title.split('\n')))
            axis.set_title(title, fontsize='small')
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        data = io.BytesIO()
        dpi = min(DPI, MAX_SIDE / max(width, height))
        figure.savefig(data, dpi=dpi, format=out.suffix[1:].lower())
    write_whole(out, data.getvalue())
    return out
