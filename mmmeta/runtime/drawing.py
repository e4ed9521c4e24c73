"""Pictures of results, with Pillow."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmmeta.errors import printable
from mmmeta.runtime.model import Detections, FileModel, LabelMap, Result

OPACITY = 0.5  # of masks and maps
TOP = 5


def draw(
    model: FileModel, image: np.ndarray, result: Result, score_thr: float
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
        return _blend(image, colors[result.labels], np.ones_like(result.labels, bool))
    lines = [
        f'{printable(model.classes[i])}: {result.values[i]:.3f}'
        for i in np.argsort(-result.values, kind='stable')[:TOP]
    ]
    picture = Image.fromarray(image)
    scale = max(1, round(256 / min(picture.size)))
    picture = picture.resize([side * scale for side in picture.size])
    _write(ImageDraw.Draw(picture), (4, 4), '\n'.join(lines), (0, 0, 0), picture)
    return np.asarray(picture)


def _draw_detections(
    model: FileModel, image: np.ndarray, found: Detections, score_thr: float
) -> np.ndarray:
    order = np.flatnonzero(found.scores >= score_thr)[::-1]  # the best on top
    if found.masks is not None:
        for i in order:
            paint = np.array(model.palette[found.labels[i]], np.uint8)
            image = _blend(image, paint, found.masks[i])
    picture = Image.fromarray(image)
    brush = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / 300))
    for i in order:
        x1, y1, x2, y2 = found.boxes[i].tolist()
        color = model.palette[found.labels[i]]
        brush.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
        text = f'{printable(model.classes[found.labels[i]])} {found.scores[i]:.2f}'
        _write(brush, (x1, y1), text, color, picture)
    return np.asarray(picture)


def _write(
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


def _blend(image: np.ndarray, color: np.ndarray, where: np.ndarray) -> np.ndarray:
    mixed = (1 - OPACITY) * image + OPACITY * color
    return np.where(where[..., None], mixed.round(), image).astype(np.uint8)
