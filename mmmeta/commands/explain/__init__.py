"""`mmmeta explain IMAGE --models MODEL`: where models look, side by side.

`subjects` builds the models, `maps` computes the maps.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmmeta.errors import UserError, require

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.commands.explain.maps import Explanation, Subject

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

    from mmmeta.commands.explain.maps import explain
    from mmmeta.commands.explain.subjects import load_subject
    from mmmeta.hosts.predictor import pick_device

    formats = FigureCanvasBase.get_supported_filetypes()
    if Path(args.out).suffix[1:].lower() not in formats:
        raise UserError(f'--out must end in .png or .pdf, got {args.out}')
    images = [_read(path) for path in args.images]
    device = pick_device(args.device)
    columns: list[tuple[Subject, list[Explanation]]] = []
    for spec in tqdm(args.models, disable=None):
        subject = load_subject(spec, device, args.random, args.layer)
        method = args.method or ('hirescam' if subject.dense else 'gradcam')
        cam = getattr(library, METHODS[method])
        found = [explain(subject, image, cam, args.target) for image in images]
        columns.append((subject, found))
        for path, explanation in zip(args.images, found, strict=True):
            print(f'{path}  {spec}  {method}  {explanation.label}')
    paths = [Path(path) for path in args.images]
    print(f'wrote {_draw_grid(Path(args.out), paths, images, columns)}')
    if args.out_dir:
        print(f'wrote {_write_panels(Path(args.out_dir), paths, images, columns)}')
    return 0


def _read(path: str) -> 'np.ndarray':
    """Return an image (H, W, 3), uint8, RGB."""
    from mmmeta.hosts.predictor import read_image

    try:
        return read_image(path)[..., ::-1].copy()
    except (OSError, ValueError) as error:
        raise UserError(f'image {path} cannot be read: {error}') from error


def _draw_grid(
    out: Path,
    paths: list[Path],
    images: list['np.ndarray'],
    columns: list[tuple['Subject', list['Explanation']]],
) -> Path:
    """Draw a row for each image and a column for each model, the images first."""
    from matplotlib.figure import Figure

    from mmmeta.commands.explain.maps import overlay

    heights = [COLUMN * image.shape[0] / image.shape[1] for image in images]
    title_lines = max(subject.title.count('\n') + 1 for subject, _ in columns)
    figure = Figure(
        (
            COLUMN * (1 + len(columns)),
            sum(heights) + LINE * (title_lines + len(images)),
        ),
        layout='constrained',
    )
    axes = figure.subplots(
        len(images), 1 + len(columns), squeeze=False, height_ratios=heights
    )
    for row, (path, image) in enumerate(zip(paths, images, strict=True)):
        axes[row, 0].imshow(image)
        axes[row, 0].set_xlabel(path.name, fontsize='small')
        for column, (_, found) in enumerate(columns, 1):
            axes[row, column].imshow(overlay(image, found[row].heat))
            axes[row, column].set_xlabel(found[row].label, fontsize='small')
    axes[0, 0].set_title('image', fontsize='small')
    for axis, (subject, _) in zip(axes[0, 1:], columns, strict=True):
        axis.set_title(subject.title, fontsize='small')
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out


def _write_panels(
    folder: Path,
    paths: list[Path],
    images: list['np.ndarray'],
    columns: list[tuple['Subject', list['Explanation']]],
) -> Path:
    import numpy as np
    from PIL import Image

    from mmmeta.commands.explain.maps import overlay

    folder.mkdir(parents=True, exist_ok=True)
    for row, (path, image) in enumerate(zip(paths, images, strict=True), 1):
        for subject, found in columns:
            title = subject.name.replace(' ', '_').replace(':', '_')
            # Images in different folders may have the same name.
            stem = folder / f'{row}_{path.stem}_{title}'
            heat = found[row - 1].heat
            np.save(f'{stem}.npy', heat)
            Image.fromarray(overlay(image, heat)).save(f'{stem}.png')
    return folder
