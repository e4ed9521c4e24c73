"""Where models look: class activation maps of classifiers, detectors and segmentors.

The `grad-cam` library computes the maps; `subjects` describes the models for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as tf

from mmmeta.errors import UserError, printable
from mmmeta.hosts.channels import with_channels
from mmmeta.hosts.predictor import hush

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM

# Share of white mixed into regions of the image that the model has not seen.
UNSEEN = 0.6


class OptionError(UserError):
    """An option does not suit a model, whatever the image."""


class View(NamedTuple):
    """An image as a model sees it.

    Attributes:
        tensor: (1, 3, h, w), float32, normalized.
        content: Height and width without padding, from the upper left corner.
        box: The corresponding part of the image: left, upper, right, lower, in pixels.
        samples: A detector's data samples; None for others.
    """

    tensor: Tensor
    content: tuple[int, int]
    box: tuple[float, float, float, float]
    samples: Any = None


@dataclass(frozen=True)
class Crop:
    """A classifier's preprocessing: a central crop, resized and normalized.

    Attributes:
        size: Height and width in pixels.
        crop_pct: Ratio of the crop's side to that of the largest possible crop; None
            stretches the whole image.
        mean: Mean of each channel, 0 to 1.
        std: Standard deviation of each channel, 0 to 1.
        interpolation: 'bicubic' or another name of Pillow's.
        channels: 3, or 1 for gray.
        is_bgr: Whether 3 channels, and those of the mean, are in the order BGR.
    """

    size: tuple[int, int]
    crop_pct: float | None
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = 'bicubic'
    channels: int = 3
    is_bgr: bool = False

    def __call__(self, image: np.ndarray) -> View:
        """Prepare an image (H, W, 3), uint8, RGB.

        Raises:
            InvalidValueError: The classifier takes neither 3 channels nor one.
        """
        height, width = image.shape[:2]
        box = (0.0, 0.0, float(width), float(height))
        if self.crop_pct is not None:
            scale = self.crop_pct * min(height / self.size[0], width / self.size[1])
            # A crop beyond the border would be padded; use the whole image instead.
            h = min(self.size[0] * scale, height)
            w = min(self.size[1] * scale, width)
            left, upper = (width - w) / 2, (height - h) / 2
            box = (left, upper, left + w, upper + h)
        resample = Image.Resampling[self.interpolation.upper()]
        pixels = with_channels(image[..., ::-1], self.channels)  # in OpenCV's order
        if self.channels == 3 and not self.is_bgr:
            pixels = pixels[..., ::-1]
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        crop = picture.resize(self.size[::-1], resample, box=box)
        tensor = tf.normalize(tf.to_tensor(crop), list(self.mean), list(self.std))
        return View(tensor[None], self.size, box)


def softmax(scores: Tensor) -> Tensor:
    """Return the probabilities of classes that exclude each other."""
    return scores.softmax(0)


@dataclass(frozen=True)
class Subject:
    """A model to visualize.

    Attributes:
        title: The title of its column.
        scores_for: Returns, for a view, a module that maps the view's tensor to a
            score for each class, (1, classes).
        layer: The module whose output is visualized.
        prepare: Converts an image (H, W, 3), uint8, RGB, to a view.
        classes: Names by index; None if unknown.
        dense: Whether it is a detector or segmentor.
        prefix: Number of tokens before those of the image (class tokens).
        channels_last: Whether the layer's maps are (B, H, W, C).
        probabilities: Converts a classifier's scores (classes,) to probabilities.
    """

    title: str
    scores_for: Callable[[View], nn.Module]
    layer: nn.Module | None
    prepare: Callable[[np.ndarray], View]
    classes: Sequence[str] | None = None
    dense: bool = False
    prefix: int = 0
    channels_last: bool = False
    probabilities: Callable[[Tensor], Tensor] = softmax

    @property
    def name(self) -> str:
        """The title as one line."""
        return self.title.replace('\n', ' ')


@dataclass(frozen=True)
class Explanation:
    """Where a model looks for one class in one image.

    Attributes:
        heat: (H, W) of the image, float32, 0 to 1; NaN where the model saw nothing.
        target: Index of the class.
        label: Its name, and a classifier's probability for it. If nothing supports
            the class, the label says so and the map is 0.
    """

    heat: np.ndarray
    target: int
    label: str


def _to_maps(subject: Subject, view: View, output: Any) -> Tensor:
    """Return a layer's output as maps (B, C, H, W).

    Raises:
        OptionError: It is neither a map nor tokens of a grid of the image's shape.
    """
    if isinstance(output, Tensor) and output.dim() == 4:
        return output.permute(0, 3, 1, 2) if subject.channels_last else output
    if isinstance(output, Tensor) and output.dim() == 3:
        tokens = output[:, subject.prefix :]
        number, (h, w) = tokens.shape[1], view.tensor.shape[2:]
        rows = round((number * h / w) ** 0.5)
        if rows and number % rows == 0:
            return tokens.transpose(1, 2).unflatten(2, (rows, number // rows))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise OptionError(
        f'{subject.name}: the layer returns {shape}, neither maps (B, C, H, W) nor '
        'grid tokens; choose another with --layer'
    )


def explain(
    subject: Subject,
    image: np.ndarray,
    cam: 'type[BaseCAM]',
    target: int | None = None,
) -> Explanation:
    """Compute where a model looks.

    Args:
        subject: The model.
        image: (H, W, 3), uint8, RGB.
        cam: A class of `pytorch_grad_cam`, such as `GradCAM`.
        target: Index of the class. Default: the class with the highest score.

    Raises:
        OptionError: No such class, or the layer is unknown.
        ValueError: The scores or the map are NaN or infinite.
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if subject.layer is None:
        raise OptionError(f'{subject.name}: the last stage is unknown; pass --layer')
    view = subject.prepare(image)
    model = subject.scores_for(view)
    device = next(model.parameters()).device
    with torch.no_grad():
        scores = model(view.tensor.to(device))[0]
    if target is not None and not 0 <= target < len(scores):
        raise OptionError(f'--target must be 0 to {len(scores) - 1}, got {target}')
    index = int(scores.argmax()) if target is None else target

    def to_maps(output: Any) -> Tensor:
        return _to_maps(subject, view, output)

    with hush(), cam(model, [subject.layer], to_maps) as compute:
        (heat,) = compute(view.tensor, [ClassifierOutputTarget(index)])
    names = subject.classes or ()
    label = printable(names[index]) if index < len(names) else f'class {index}'
    if not subject.dense:
        label = f'{label} {subject.probabilities(scores)[index]:.2f}'
    if not (np.isfinite(heat).all() and scores.isfinite().all()):
        raise ValueError(f'{subject.name} returns NaN or infinite scores or maps')
    if not heat.any():
        label = f'{label} (no evidence)'
    return Explanation(_place(heat, view, image.shape[:2]), index, label)


def _place(heat: np.ndarray, view: View, size: tuple[int, int]) -> np.ndarray:
    """Place a view's map at its position in an image of (height, width) `size`."""
    heat = heat[: view.content[0], : view.content[1]]
    left, upper, right, lower = map(round, view.box)
    placed = np.full(size, np.nan, np.float32)
    resized = Image.fromarray(heat).resize(
        (right - left, lower - upper), Image.Resampling.BILINEAR
    )
    placed[upper:lower, left:right] = np.asarray(resized).clip(0, 1)
    return placed


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Color an image (H, W, 3), uint8, RGB, by a map; pale where the map is NaN."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    colored = show_cam_on_image(image / 255, np.nan_to_num(heat), use_rgb=True)
    pale = image + UNSEEN * (255.0 - image)
    return np.where(np.isnan(heat)[..., None], pale, colored).astype(np.uint8)
