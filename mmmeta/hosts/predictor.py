"""Running trained models of any host library on images.

The config's `default_scope` selects between detectors, segmentors and classifiers; the
host libraries' own inferencers do the work.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmmeta.errors import NoResultError, UserError, one_line, printable, require
from mmmeta.hosts.channels import image_channels, with_channels
from mmmeta.hosts.classes import ClassNames, class_names
from mmmeta.hosts.config import building, load_config
from mmmeta.hosts.images import read_image
from mmmeta.hosts.libraries import LIBRARIES, Library, library_of
from mmmeta.weights.names import SCHEME, find

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from mmmeta.runtime.model import Result

    Image: TypeAlias = str | os.PathLike | np.ndarray

MAX_CLASSES = 1 << 20  # larger indices are considered invalid


@dataclass
class Predictor:
    """A model with its weights, ready for inference.

    Attributes:
        library: The host library.
        inferencer: The library's inferencer.
        names: Names and colors of the classes. If the model turns out to have more
            classes, numbers are added.
        channels: Number of channels of the model's images.
    """

    library: Library
    inferencer: Any
    names: ClassNames
    channels: int = 3

    def __post_init__(self) -> None:
        self._show_names()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by index; numbers if unknown."""
        return self.names.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Their colors, RGB, 0 to 255."""
        return self.names.palette

    @property
    def task(self) -> str:
        """'detection', 'segmentation' or 'classification'."""
        return self.library.task

    @property
    def model(self) -> 'nn.Module':
        """The model, in evaluation mode."""
        return self.inferencer.model

    @property
    def config(self) -> 'Config':
        """Its config."""
        name = 'config' if self.task == 'classification' else 'cfg'
        return getattr(self.inferencer, name)

    def __call__(self, images: 'Image | Sequence[Image]') -> Any:
        """Return the host library's data sample of each image, at its own size.

        Args:
            images: A path or an array, (H, W, C), uint8, BGR, as OpenCV and
                `read_image` return it; or a list of these, one batch.

        Returns:
            The data sample of the image, or a list of them for a list.

        Raises:
            ValueError: A file cannot be read.
            NoResultError: The model does another task than its library's main one.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            return self([images])[0]
        arrays = [
            read_image(image, self.channels)
            if isinstance(image, (str, os.PathLike))
            else image
            for image in images
        ]
        return self.forward(self.prepare(arrays))

    def prepare(self, images: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return images as a batch prepared by the config's test pipeline.

        Raises:
            InvalidValueError: An image has another number of channels than the model's.
        """
        given = [with_channels(image, self.channels) for image in images]
        (batch,) = self.inferencer.preprocess(given, batch_size=len(given))
        # A detector's samples start with the image itself.
        return batch[1] if self.task == 'detection' else batch

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        """Run the model on a batch; see `__call__`."""
        samples = self.inferencer.forward(batch)
        field = self.library.field
        for sample in samples:
            if field not in sample:
                raise NoResultError(
                    f'{type(self.inferencer.model).__name__} returns no {field}; '
                    'detectors and instance segmentors, semantic segmentors and '
                    'classifiers do'
                )
            # Only instances are written and drawn; the others would need panopticapi.
            sample.pop('pred_panoptic_seg', None)
            self._cover(_num_seen(sample, field))
        return samples

    def _cover(self, count: int) -> None:
        """Add numbers if a result has more classes than are known."""
        if count > MAX_CLASSES:
            raise ValueError(f'the model returned the invalid class {count - 1}')
        if count > len(self.classes):
            known = len(self.classes)
            self.names = self.names.extended(count)
            self._show_names()
            if known:
                _say(f'{known} classes are known, the model has {count}')

    def _show_names(self) -> None:
        """Set the names in the host library, for those who draw by its inferencer."""
        # They cannot draw text with line breaks or bytes that are not UTF-8.
        classes = tuple(printable(name) for name in self.classes)
        # A tuple would be treated as one color.
        meta = {'classes': classes, 'palette': list(self.palette)}
        if self.task == 'classification':
            self.inferencer.classes = classes
        else:
            self.inferencer.model.dataset_meta = meta
            self.inferencer.visualizer.dataset_meta = meta

    def instances(self, sample: Any) -> dict[str, Any]:
        """Return a detector's sample as lists, masks in COCO's encoding."""
        return self.inferencer.pred2dict(sample)

    def label_map(self, sample: Any) -> np.ndarray:
        """Return the classes' indices (H, W) of a segmentor's sample."""
        return sample.pred_sem_seg.data[0].cpu().numpy()

    def probabilities(self, sample: Any) -> np.ndarray:
        """Return the classes' probabilities (classes,) of a classifier's sample."""
        return sample.pred_score.cpu().numpy()

    def result(self, sample: Any) -> 'Result':
        """Return a sample's result as that of an exported file, on the CPU."""
        from mmmeta.runtime import Detections, LabelMap, Probabilities

        if self.task == 'segmentation':
            return LabelMap(self.label_map(sample).astype('int64'))
        if self.task == 'classification':
            return Probabilities(self.probabilities(sample))
        found = sample.pred_instances.cpu()
        masks = found.masks.numpy().astype(bool) if 'masks' in found else None
        return Detections(
            found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks
        )

    def draw(
        self, image: np.ndarray, sample: Any, score_thr: float = 0.3
    ) -> np.ndarray:
        """Return an image with its predictions drawn on it.

        Args:
            image: (H, W, C), uint8, BGR; what follows these is not drawn.
            sample: Its data sample.
            score_thr: Detections below are not drawn. Default: 0.3.

        Returns:
            (H, W, 3), uint8, BGR; a classifier's small image is enlarged.
        """
        from mmmeta.runtime.drawing import draw

        rgb = np.ascontiguousarray(image[..., 2::-1])
        return draw(self, rgb, self.result(sample), score_thr)[..., ::-1]


def _num_seen(sample: Any, field: str) -> int:
    """Return the number of classes known from a result."""
    if field == 'pred_score':
        return sample.pred_score.numel()
    result = getattr(sample, field)
    found = result.data if field == 'pred_sem_seg' else result.labels
    return int(found.max()) + 1 if found.numel() else 0


def _say(text: str) -> None:
    print(f'{printable(text)}: numbers replace missing names', file=sys.stderr)


def load(
    name: str,
    checkpoint: str | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Predictor:
    """Load a trained model, ready for images: `mmmeta.load`.

        model = mmmeta.load('mask_rcnn_uniformer_small_ms_3x')
        found = model('photo.jpg').pred_instances

    Args:
        name: A published model (`mmmeta list --task detection`, `segmentation` or
            `classification`), whose weights are downloaded unless they are in the
            cache; or a config, with `checkpoint`.
        checkpoint: A file, a URL or mmmeta://NAME in place of the published weights;
            required for a config. Default: None.
        device: As for `pick_device`. Default: None.
        cfg_options: Settings that override the config's, by dotted key. Default: None.

    Returns:
        The predictor: `predictor(image)` returns the host library's data sample,
        `predictor.model` is the model and `predictor.config` its config.

    Raises:
        CheckpointError: An unknown name (the message lists the nearest), or the
            checkpoint cannot be obtained or read, or does not fit.
        UserError: A config without a checkpoint, or another wrong argument.
    """
    if not (name.endswith('.py') or '::' in name):
        row = find(name)
        name, checkpoint = row.name, checkpoint or SCHEME + row.name
    if checkpoint is None:
        raise UserError(f'{name} needs a checkpoint: mmmeta.load(CONFIG, CHECKPOINT)')
    return build_predictor(name, checkpoint, device, cfg_options)


def build_predictor(
    config: str,
    checkpoint: str,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Predictor:
    """Build a config's model and load its weights, strictly.

    Only the checkpoint is downloaded, if it is a URL; the weights that the config names
    for training are not needed. Class names come from the checkpoint, else from the
    config's test data, else they are numbers.

    Args:
        config: A file, or one in an installed library, such as
            mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.
        checkpoint: A file, a URL or mmmeta://NAME, read without executing code.
        device: As for `pick_device`. Default: None.
        cfg_options: Settings that override the config's, by dotted key. Default: None.

    Raises:
        UserError: An invalid argument; says what was expected.
        CheckpointError: The checkpoint cannot be obtained or read, or does not fit.
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
    names = class_names(model, cfg, content.get('meta') or {})
    if names.remark:
        _say(f'{checkpoint}: {names.remark}')
    return Predictor(LIBRARIES[scope], inferencer, names, image_channels(model))


# -- user input -------------------------------------------------------------------


def pick_device(name: str | None) -> str:
    """Return the device to run on.

    Args:
        name: 'cpu', 'cuda', 'cuda:1', ...; None for a GPU if available, of several
            processes of a launcher one each.

    Raises:
        UserError: It is unknown or not available.
    """
    import torch

    if name is None:
        rank = os.environ.get('LOCAL_RANK')
        gpu = f'cuda:{rank}' if rank else 'cuda'
        return gpu if torch.cuda.is_available() else 'cpu'
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


# -- building ---------------------------------------------------------------------


@contextmanager
def hush() -> Iterator[None]:
    """Suppress the host libraries' output on import and when building models."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


def _check_config(cfg: 'Config', name: str) -> str:
    """Return the config's scope; raise UserError if something is missing."""
    if not cfg.get('model'):
        raise UserError(f'config {name} has no model')
    scope = library_of(cfg, name)
    loader = cfg.get('test_dataloader') or {}
    if 'pipeline' not in (loader.get('dataset') or {}):
        raise UserError(
            f'config {name} has no test_dataloader.dataset.pipeline, which is needed '
            'to prepare images'
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
    if hasattr(getattr(model, 'head', None), 'task_heads'):
        raise UserError(
            f'the model of {config} classifies by several tasks at once; expected one '
            'classification head'
        )


# -- the checkpoint ---------------------------------------------------------------


def _read_checkpoint(name: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return a checkpoint's full content and its weights."""
    from mmmeta.weights.locate import locate
    from mmmeta.weights.reading import read_file, unwrap

    content = read_file(locate(name))
    return content, unwrap(content, name)


def _load_strictly(
    model: 'nn.Module', state: dict[str, Any], checkpoint: str, config: str
) -> None:
    """Load all weights of a model or none; MMEngine would only log mismatches."""
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
            f'checkpoint {checkpoint} does not fit config {config}: '
            f'{one_line(error, 600)}'
        ) from error
