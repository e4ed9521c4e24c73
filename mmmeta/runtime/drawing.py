"""Pictures of results, with Pillow."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from mmmeta.errors import printable
from mmmeta.runtime.model import Detections, LabelMap, Result

OPACITY = 0.6  # of masks and maps, as in pictures of the host libraries
TOP = 5  # classes of an image
LEAST_AREA = 0.005  # of an image, for a class of a map to be named on it
LEGIBLE, LARGEST = 256, 4096  # sides in pixels; small images are enlarged for text


class Classes(Protocol):
    """What has the classes' names and colors, RGB, 0 to 255: a `FileModel`."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]: ...


def name_of(model: Classes, label: int) -> str:
    """Return a class's name, or the number of one that has none."""
    # A negative one would count from the end.
    there = 0 <= label < len(model.classes)
    return printable(model.classes[label]) if there else str(label)


def draw(
    model: Classes, image: np.ndarray, result: Result, score_thr: float
) -> np.ndarray:
    """Return an image with a result drawn on it, uint8 (H, W, 3), RGB.

    Args:
        model: Has the classes' names and colors.
        image: uint8 (H, W, 3), RGB.
        result: What the model found in it.
        score_thr: Detections below are not drawn.
    """
    if isinstance(result, Detections):
        return _draw_detections(model, image, result, score_thr)
    colors = np.array(model.palette, np.uint8)
    if isinstance(result, LabelMap):
        return _draw_map(model, mixed(image, colors[result.labels]), result.labels)
    lines = [
        f'{name_of(model, i)}: {result.values[i]:.3f}'
        for i in np.argsort(-result.values, kind='stable')[:TOP]
    ]
    picture = Image.fromarray(image)
    scale = min(LEGIBLE / min(picture.size), LARGEST / max(picture.size))
    if scale > 1:
        picture = picture.resize([round(side * scale) for side in picture.size])
    write(ImageDraw.Draw(picture), (4, 4), '\n'.join(lines), (0, 0, 0), picture)
    return np.asarray(picture)


def _draw_map(model: Classes, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, 3), with the names of larger classes on it.

    Args:
        model: Has the classes' names and colors.
        image: uint8 (H, W, 3), RGB.
        labels: Class indices (H, W).
    """
    picture = Image.fromarray(image)
    brush = ImageDraw.Draw(picture)
    step = max(1, max(labels.shape) // 512)  # no pixel matters
    coarse = labels[::step, ::step]
    classes, counts = np.unique(coarse, return_counts=True)
    for i in np.argsort(counts):  # the largest on top
        if counts[i] < LEAST_AREA * coarse.size:
            continue
        label = int(classes[i])
        y, x = np.nonzero(coarse == label)
        # Of a class in several places, its pixel next to their middle.
        best = (np.abs(y - np.median(y)) + np.abs(x - np.median(x))).argmin()
        place = float(x[best] * step), float(y[best] * step)
        write(brush, place, name_of(model, label), _color(model, label), picture)
    return np.asarray(picture)


def _draw_detections(
    model: Classes, image: np.ndarray, found: Detections, score_thr: float
) -> np.ndarray:
    order = np.flatnonzero(found.scores >= score_thr)[::-1]  # the best on top
    labels = found.labels[order]
    return draw_boxes(
        image,
        found.boxes[order].tolist(),
        [_color(model, label) for label in labels],
        [
            f'{name_of(model, label)} {score:.2f}'
            for label, score in zip(labels, found.scores[order], strict=True)
        ],
        [] if found.masks is None else list(found.masks[order]),
    )


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    colors: Sequence[tuple[int, int, int]],
    texts: Sequence[str],
    masks: Sequence[np.ndarray | None] = (),
) -> np.ndarray:
    """Return an image with boxes, masks and texts, uint8 (H, W, 3), RGB.

    Args:
        image: uint8 (H, W, 3), RGB.
        boxes: Of each object x1, y1, x2, y2 in pixels; the last one is on top.
        colors: Of each object, RGB.
        texts: Of each object.
        masks: Of each object bool (H, W) or None. Default: none.
    """
    width = max(2, round(min(image.shape[:2]) / 300))
    if masks:
        image = image.copy()
    for color, mask in zip(colors, masks, strict=False):
        if mask is not None:
            image[mask] = mixed(image[mask], color)
            image[_border(mask, width - 1)] = 255
    picture = Image.fromarray(image)
    brush = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), color, text in zip(boxes, colors, texts, strict=True):
        brush.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
        write(brush, (x1, y1), printable(text), color, picture)
    return np.asarray(picture)


def _color(model: Classes, label: int) -> tuple[int, int, int]:
    return model.palette[label % len(model.palette)]


def write(
    brush: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    color: tuple[int, int, int],
    picture: Image.Image,
) -> None:
    """Write text on a field of a color, inside of the picture."""
    font = ImageFont.load_default(max(11, min(picture.size) / 40))
    _, _, width, height = brush.textbbox((0, 0), text, font)
    x = min(max(place[0], 0), max(picture.width - width - 2, 0))
    y = min(max(place[1], 0), max(picture.height - height - 2, 0))
    brush.rectangle((x, y, x + width + 2, y + height + 2), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 128
    brush.text((x + 1, y + 1), text, (255,) * 3 if dark else (0,) * 3, font)


def mixed(pixels: np.ndarray, color: ArrayLike) -> np.ndarray:
    """Return pixels, uint8 (..., 3), mixed with a color or colors of that shape."""
    found = (1 - OPACITY) * pixels + OPACITY * np.asarray(color)
    return found.round().astype(np.uint8)


def _border(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a mask (H, W) that are next to others."""
    inside = mask
    for _ in range(width):
        padded = np.pad(inside, 1, mode='edge')
        vertical = padded[:-2, 1:-1] & padded[2:, 1:-1]
        inside = inside & vertical & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
