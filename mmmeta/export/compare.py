"""Whether a file finds what its model finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmmeta.runtime import Detections, LabelMap, Probabilities
from mmmeta.runtime.model import Result

IOU = 0.9  # of a box with that of the same object
MASK_IOU = 0.8  # likewise of masks
BEST = 20  # detections of an image that are compared
SCORE = 0.02  # by which scores may differ


@dataclass(frozen=True)
class Agreement:
    """How far results agree.

    Attributes:
        share: Of the detections, pixels or images, from 0 to 1.
        count: How many were compared.
        difference: Largest difference of scores among those that agree.
        what: 'detections', 'pixels' or 'images'.
    """

    share: float
    count: int
    difference: float
    what: str

    def __str__(self) -> str:
        text = f'{100 * self.share:.2f} % of {self.count:,} {self.what} agree'
        if self.what != 'pixels':
            text += f', scores within {self.difference:.1e}'
        return text


def agreement(expected: Sequence[Result], found: Sequence[Result]) -> Agreement:
    """Compare the results of the same images.

    Detections agree that have the same class, boxes with an IoU of `IOU`, masks with
    one of `MASK_IOU`, and scores within `SCORE`; of each image the best `BEST`. Of
    classifiers, images agree whose first class is the same.
    """
    first = expected[0]
    compare: Any = (
        _detections
        if isinstance(first, Detections)
        else _maps
        if isinstance(first, LabelMap)
        else _probabilities
    )
    same, total, difference = 0, 0, 0.0
    for a, b in zip(expected, found, strict=True):
        one_same, one_total, one_difference = compare(a, b)
        same, total = same + one_same, total + one_total
        difference = max(difference, one_difference)
    what = {_detections: 'detections', _maps: 'pixels'}.get(compare, 'images')
    return Agreement(same / total if total else 1.0, total, difference, what)


def _detections(a: Detections, b: Detections) -> tuple[int, int, float]:
    count = min(BEST, len(a.scores))
    same, difference = 0, 0.0
    for i in range(count):
        near = (_ious(a.boxes[i], b.boxes) >= IOU) & (b.labels == a.labels[i])
        if a.masks is not None and b.masks is not None:
            near[near] = _mask_ious(a.masks[i], b.masks[near]) >= MASK_IOU
        distances = np.abs(b.scores[near] - a.scores[i])
        if distances.size and distances.min() <= SCORE:
            same += 1
            difference = max(difference, float(distances.min()))
    return same, count, difference


def _ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    corner = np.maximum(box[:2], boxes[:, :2])
    inner = np.prod(np.maximum(np.minimum(box[2:], boxes[:, 2:]) - corner, 0), 1)
    areas = [np.prod(x[..., 2:] - x[..., :2], -1) for x in (box, boxes)]
    return inner / np.maximum(areas[0] + areas[1] - inner, 1e-9)


def _mask_ious(mask: np.ndarray, masks: np.ndarray) -> np.ndarray:
    union = (mask | masks).sum((1, 2))
    # Two masks without a pixel are the same.
    return np.where(union, (mask & masks).sum((1, 2)) / np.maximum(union, 1), 1.0)


def _maps(a: LabelMap, b: LabelMap) -> tuple[int, int, float]:
    return int((a.labels == b.labels).sum()), a.labels.size, 0.0


def _probabilities(a: Probabilities, b: Probabilities) -> tuple[int, int, float]:
    same = int(a.values.argmax() == b.values.argmax())
    return same, 1, float(np.abs(a.values - b.values).max())
