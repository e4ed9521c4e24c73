"""Trained models on images, whichever of the host libraries they are of.

What differs between detectors, segmentors and classifiers is looked up by the config's
`default_scope`; the host libraries' own inferencers do the work.
"""

import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmmeta.errors import UserError, one_line, require
from mmmeta.hosts.classes import class_names
from mmmeta.hosts.config import building, load_config
from mmmeta.hosts.libraries import LIBRARIES, Library, library_of

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn


@dataclass(frozen=True)
class Predictor:
    """A model with its weights, ready for images.

    Attributes:
        library: The host library.
        inferencer: The library's.
        classes: Names of the classes by index; numbers where none are known.
        palette: Their colors, RGB, 0 to 255.
    """

    library: Library
    inferencer: Any
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @property
    def task(self) -> str:
        """'detection', 'segmentation' or 'classification'."""
        return self.library.task

    def __call__(self, images: Sequence['np.ndarray']) -> list[Any]:
        """Return the host library's data sample of each image, at its own size.

        Args:
            images: (H, W, 3), uint8, BGR, as `read_image` returns them; one batch.

        Raises:
            UserError: The model does another task than its library's main one.
        """
        return self.forward(self.prepare(images))

    def prepare(self, images: Sequence['np.ndarray']) -> dict[str, Any]:
        """Return the batch that the config's test pipeline makes of images."""
        (batch,) = self.inferencer.preprocess(list(images), batch_size=len(images))
        # A detector's has the images themselves in front.
        return batch[1] if self.task == 'detection' else batch

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        """Run the model on a batch; see `__call__`."""
        samples = self.inferencer.forward(batch)
        field = self.library.field
        if field not in samples[0]:
            raise UserError(
                f'{type(self.inferencer.model).__name__} returns no {field}; detectors '
                'and instance segmentors, semantic segmentors and classifiers do'
            )
        return samples

    def draw(
        self, image: 'np.ndarray', sample: Any, score_thr: float = 0.3
    ) -> 'np.ndarray':
        """Return a picture of an image and what was found on it.

        Args:
            image: (H, W, 3), uint8, BGR.
            sample: Its data sample.
            score_thr: Detections below are not drawn. Default: 0.3.

        Returns:
            (H, W, 3), uint8, BGR; a classifier's is enlarged where it is small.
        """
        from mmengine.visualization import Visualizer

        visualizer: Visualizer = self.inferencer.visualizer
        rgb = image[..., ::-1]
        if self.task == 'classification':
            small = min(image.shape[:2]) < 256  # pixels, for the text to be legible
            visualizer.visualize_cls(
                rgb, sample, self.classes, draw_gt=False, resize=256 if small else None
            )
            return visualizer.get_image()[..., ::-1]
        options = {'pred_score_thr': score_thr} if self.task == 'detection' else {}
        with warnings.catch_warnings():
            # Of boxes that touch the border.
            warnings.filterwarnings('ignore', message='.*out of bounds')
            visualizer.add_datasample('', rgb, sample, draw_gt=False, **options)
        return visualizer.get_image()[..., ::-1]


def build_predictor(
    config: str,
    checkpoint: str,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Predictor:
    """Build a config's model and load its weights, strictly.

    Nothing is downloaded but the checkpoint, where it has an address: the weights
    that the config would begin a training with are not asked for. Class names are
    those of the checkpoint, else of the config's test data; numbers if neither has any.

    Args:
        config: A file, or one in an installed library, such as
            mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.
        checkpoint: A file, an address or mmmeta://NAME, read without running code.
        device: As for `pick_device`. Default: None.
        cfg_options: What to replace in the config, by key with dots. Default: None.

    Raises:
        UserError: A wrong argument: what, and what was expected.
        CheckpointError: The checkpoint cannot be had, read or does not fit.
    """
    cfg = load_config(config, cfg_options)
    scope = _check_config(cfg, config)
    content, state = _read_checkpoint(checkpoint)
    device = pick_device(device)
    with hush():
        from mmengine.registry import init_default_scope

        for part in ('models', 'apis'):
            require(f'{scope}.{part}', 'onedl', f'{config} is of {scope} and')
        with building(config):
            init_default_scope(scope)
            inferencer = LIBRARIES[scope].build_inferencer(cfg, device)
    model = inferencer.model
    _check_model(model, scope, config)
    _load_strictly(model, state, checkpoint, config)
    classes, palette = class_names(model, cfg, content.get('meta') or {})
    if scope == 'mmpretrain':
        inferencer.classes = classes
    else:
        # A tuple would be taken for one color.
        meta = {'classes': classes, 'palette': list(palette)}
        model.dataset_meta = inferencer.visualizer.dataset_meta = meta
    return Predictor(LIBRARIES[scope], inferencer, classes, palette)


# -- what the user gave -----------------------------------------------------------


def pick_device(name: str | None) -> str:
    """Return the device to run on.

    Args:
        name: 'cpu', 'cuda', 'cuda:1', ...; None for a GPU where there is one.

    Raises:
        UserError: It is unknown or not there.
    """
    import torch

    if name is None:
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        if name.startswith('cuda') and not torch.cuda.is_available():
            reason = 'no GPU was found'
        else:
            reason = one_line(error, 120)
        raise UserError(
            f'device {name!r} cannot be used: {reason}; expected cpu, cuda or cuda:N'
        ) from error
    return name


def read_image(path: str | os.PathLike) -> 'np.ndarray':
    """Return an image as the host libraries read it: turned as its EXIF data say.

    Returns:
        (H, W, 3), uint8, BGR.

    Raises:
        ValueError: It cannot be read, or is cut off; says why.
    """
    import mmcv
    from PIL import Image

    try:
        # OpenCV only fills what a cut off file lacks with gray.
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(one_line(error)) from error
    pixels = mmcv.imread(os.fspath(path))
    if pixels is None:
        raise ValueError('OpenCV cannot read this format')
    return pixels


# -- building ---------------------------------------------------------------------


@contextmanager
def hush() -> Iterator[None]:
    """Drop what the host libraries say when they are imported and models built."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


def _check_config(cfg: 'Config', name: str) -> str:
    """Return the config's scope, or say what it lacks."""
    if not cfg.get('model'):
        raise UserError(f'config {name} has no model')
    scope = library_of(cfg, name)
    loader = cfg.get('test_dataloader') or {}
    if 'pipeline' not in (loader.get('dataset') or {}):
        raise UserError(
            f'config {name} has no test_dataloader.dataset.pipeline, which says how '
            'images are prepared'
        )
    return scope


def _check_model(model: 'nn.Module', scope: str, config: str) -> None:
    library = LIBRARIES[scope]
    base = getattr(require(f'{scope}.models', 'onedl', config), library.base)
    if not isinstance(model, base):
        raise UserError(
            f'the model of {config}, {type(model).__name__}, is not for '
            f'{library.task}: expected a {library.base} of {scope}'
        )


# -- the checkpoint ---------------------------------------------------------------


def _read_checkpoint(name: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return all that a checkpoint holds, and its weights."""
    from mmmeta.weights.locate import locate
    from mmmeta.weights.reading import read_file, unwrap

    content = read_file(locate(name))
    return content, unwrap(content, name)


def _load_strictly(
    model: 'nn.Module', state: dict[str, Any], checkpoint: str, config: str
) -> None:
    """Load all weights of a model or none; MMEngine would only warn of misfits."""
    from mmmeta.models.metaformer import MetaFormer
    from mmmeta.weights.errors import CheckpointError
    from mmmeta.weights.loading import load_checkpoint

    try:
        if any(isinstance(module, MetaFormer) for module in model.modules()):
            load_checkpoint(model, state)
        else:
            model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f'checkpoint {checkpoint} is not of config {config}: {one_line(error, 600)}'
        ) from error
