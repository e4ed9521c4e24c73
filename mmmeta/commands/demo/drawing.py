"""Displaying a prediction: a picture and a text."""

import math
from collections import Counter
from html import escape

import numpy as np
from PIL import Image

from mmmeta.commands.demo.engine import Prediction
from mmmeta.errors import printable
from mmmeta.runtime.drawing import draw as draw_result
from mmmeta.runtime.drawing import name_of
from mmmeta.runtime.model import Detections, LabelMap, Probabilities

# Images smaller than this (in pixels) are enlarged before labels are drawn on them.
MIN_SIDE = 640


def draw(prediction: Prediction, threshold: float) -> np.ndarray:
    """Return the image with predictions drawn on it, uint8 (H, W, 3), RGB.

    Args:
        prediction: Prediction of a detector or segmentor.
        threshold: Only objects with a higher score are drawn.
    """
    image, result = prediction.image, prediction.result
    if isinstance(result, Detections):
        image, result = _enlarged(image, _above(result, threshold))
    return draw_result(prediction, image, result, threshold)


def _above(found: Detections, threshold: float) -> Detections:
    there = found.scores > threshold
    masks = None if found.masks is None else found.masks[there]
    return Detections(
        found.boxes[there], found.scores[there], found.labels[there], masks
    )


def _enlarged(image: np.ndarray, found: Detections) -> tuple[np.ndarray, Detections]:
    height, width = image.shape[:2]
    scale = -(-MIN_SIDE // max(height, width))
    if scale <= 1:
        return image, found
    size = (width * scale, height * scale)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    masks = found.masks
    if masks is not None:
        masks = masks.repeat(scale, 1).repeat(scale, 2)
    larger = Detections(found.boxes * scale, found.scores, found.labels, masks)
    return np.asarray(picture), larger


def describe(prediction: Prediction, threshold: float) -> str:
    """Return a description of the prediction as HTML."""
    result = prediction.result
    if isinstance(result, LabelMap):
        return _legend(prediction, result)
    if isinstance(result, Detections):
        return _count(prediction, result, threshold)
    return ''


def _count(prediction: Prediction, found: Detections, threshold: float) -> str:
    labels = _above(found, threshold).labels.tolist()
    counts = Counter(name_of(prediction, label) for label in labels)
    objects = f'{len(labels)} object{"" if len(labels) == 1 else "s"}'
    text = f'<strong>{objects}</strong> with a score above {threshold:.2f}'
    if counts:
        names = (f'{n} {escape(name)}' for name, n in counts.most_common())
        text += f': {", ".join(names)}'
    return text


def _legend(prediction: Prediction, found: LabelMap) -> str:
    """Return the classes in the map with their colors and shares of the image."""
    counts = np.bincount(found.labels.flatten())
    rows = []
    for label in np.argsort(-counts)[: (counts > 0).sum()]:
        color = ','.join(map(str, prediction.palette[label]))
        name = escape(name_of(prediction, label))
        share = 100 * counts[label] / found.labels.size
        rows.append(
            f'<li><span class="swatch" style="background:rgb({color})"></span>'
            f'{name} {share:.1f} %</li>'
        )
    return f'<ul class="legend">{"".join(rows)}</ul>'


def scores(prediction: Prediction, found: Probabilities) -> dict[str, float]:
    """Return a classifier's probabilities by class.

    Raises:
        ValueError: They are NaN or infinite, which the page could not show.
    """
    values = found.values.tolist()
    if not all(map(math.isfinite, values)):
        raise ValueError('NaN or infinite among the scores')
    # There may be more names than outputs.
    names = [printable(name) for name in prediction.classes[: len(values)]]
    # ImageNet has classes with the same name.
    twice = {name for name, n in Counter(names).items() if n > 1}
    return {
        f'{name} ({i})' if name in twice else name: value
        for i, (name, value) in enumerate(zip(names, values, strict=True))
    }


def timing(prediction: Prediction) -> str:
    """Return the model's run time, its device and the image sizes."""
    height, width = prediction.image.shape[:2]
    text = (
        f'Model: {1000 * prediction.seconds:.0f} ms on {prediction.device}, after a '
        f'warm-up. Image: {width}x{height} pixels'
    )
    if prediction.input_size is None:  # an exported file resizes on its own
        return f'{text}.'
    rows, columns = prediction.input_size
    return f'{text}, {columns}x{rows} as the model sees it.'
