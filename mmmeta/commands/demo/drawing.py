"""Displaying a prediction: a picture and a text."""

import math
from collections import Counter
from html import escape
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmmeta.commands.demo.engine import Prediction
from mmmeta.errors import printable
from mmmeta.hosts.libraries import OPACITY
from mmmeta.hosts.predictor import drawable

# Images smaller than this (in pixels) are enlarged before labels are drawn on them.
MIN_SIDE = 640


def draw(prediction: Prediction, threshold: float) -> np.ndarray:
    """Return the image with predictions drawn on it, uint8 (H, W, 3), RGB.

    Args:
        prediction: Prediction of a detector or segmentor.
        threshold: Only objects with a higher score are drawn.
    """
    if prediction.task == 'segmentation':
        return _draw_map(prediction)
    return _draw_objects(prediction, threshold)


def _draw_objects(prediction: Prediction, threshold: float) -> np.ndarray:
    from mmdet.visualization import DetLocalVisualizer

    image, sample = prediction.image[..., ::-1], prediction.sample.clone()
    found = _above(prediction, threshold).numpy()
    scale = -(-MIN_SIDE // max(image.shape[:2]))
    if scale > 1:
        image = cv2.resize(
            image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC
        )
        found.bboxes = found.bboxes * scale
        if 'masks' in found:
            found.masks = found.masks.repeat(scale, 1).repeat(scale, 2)
    sample.pred_instances = found
    return _draw_sample(DetLocalVisualizer(line_width=2), prediction, image, sample)


def _draw_map(prediction: Prediction) -> np.ndarray:
    from mmseg.visualization import SegLocalVisualizer

    image = prediction.image[..., ::-1]
    # The page has a legend instead of labels on the picture.
    return _draw_sample(
        SegLocalVisualizer(),
        prediction,
        image,
        drawable(prediction.sample),
        with_labels=False,
    )


def _draw_sample(
    visualizer: Visualizer,
    prediction: Prediction,
    image: np.ndarray,
    sample: BaseDataElement,
    **options: Any,
) -> np.ndarray:
    visualizer.alpha = OPACITY
    visualizer.dataset_meta = dict(
        classes=tuple(map(printable, prediction.classes)),
        palette=list(prediction.palette),
    )
    with rc_context({'text.parse_math': False}):  # a name may contain a dollar
        visualizer.add_datasample('page', image, sample, draw_gt=False, **options)
    return visualizer.get_image()


def _above(prediction: Prediction, threshold: float) -> BaseDataElement:
    found = prediction.sample.pred_instances
    return found[found.scores > threshold]


def describe(prediction: Prediction, threshold: float) -> str:
    """Return a description of the prediction as HTML."""
    if prediction.task == 'segmentation':
        return _legend(prediction)
    if prediction.task == 'detection':
        return _count(prediction, threshold)
    return ''


def _count(prediction: Prediction, threshold: float) -> str:
    labels = _above(prediction, threshold).labels.tolist()
    counts = Counter(_name(prediction, label) for label in labels)
    objects = f'{len(labels)} object{"" if len(labels) == 1 else "s"}'
    text = f'<strong>{objects}</strong> with a score above {threshold:.2f}'
    if counts:
        names = (f'{n} {escape(name)}' for name, n in counts.most_common())
        text += f': {", ".join(names)}'
    return text


def _legend(prediction: Prediction) -> str:
    """Return the classes in the map with their colors and shares of the image."""
    # Labels of two classes that share one output are floats.
    labels = prediction.sample.pred_sem_seg.data.flatten().long()
    counts = np.bincount(labels)
    rows = []
    for label in np.argsort(-counts)[: (counts > 0).sum()]:
        color = ','.join(map(str, prediction.palette[label]))
        name = escape(_name(prediction, label))
        share = 100 * counts[label] / len(labels)
        rows.append(
            f'<li><span class="swatch" style="background:rgb({color})"></span>'
            f'{name} {share:.1f} %</li>'
        )
    return f'<ul class="legend">{"".join(rows)}</ul>'


def _name(prediction: Prediction, label: int) -> str:
    # A negative one would count from the end.
    return printable(prediction.classes[label]) if label >= 0 else str(label)


def scores(prediction: Prediction) -> dict[str, float]:
    """Return a classifier's probabilities by class.

    Raises:
        ValueError: They are NaN or infinite, which the page could not show.
    """
    values = prediction.sample.pred_score.tolist()
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
    rows, columns = prediction.input_size
    return (
        f'Model: {1000 * prediction.seconds:.0f} ms on {prediction.device}, after a '
        f'warm-up. Image: {width}x{height} pixels, {columns}x{rows} as the model '
        'sees it.'
    )
