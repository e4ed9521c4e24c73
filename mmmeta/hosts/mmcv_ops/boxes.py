"""Non-maximum suppression and its variants."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .common import OPS, widened


def _float32(threshold: float) -> float:
    """Round to float32, as mmcv does with IoUs and thresholds."""
    return float(np.float32(threshold))


def _areas(boxes: np.ndarray, offset: int) -> np.ndarray:
    x1, y1, x2, y2 = boxes.T
    return (x2 - x1 + offset) * (y2 - y1 + offset)


def _ious(boxes: np.ndarray, areas: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of the first box with each other box, computed as in mmcv."""
    corner1 = np.maximum(boxes[0, :2], boxes[1:, :2])
    corner2 = np.minimum(boxes[0, 2:], boxes[1:, 2:])
    size = np.maximum(corner2 - corner1 + offset, 0)
    inter = size[:, 0] * size[:, 1]
    with np.errstate(invalid='ignore', divide='ignore'):  # boxes without area
        return inter / (areas[0] + areas[1:] - inter)


def _groups(
    boxes: Tensor, scores: Tensor, offset: int, suppresses: Callable
) -> list[np.ndarray]:
    """Return the index of each box to keep and those of the boxes it suppresses.

    Both are ordered by score; `suppresses` decides for an IoU.
    """
    order = scores.sort(descending=True)[1].cpu().numpy()
    sorted_boxes = boxes.cpu().numpy()[order]
    areas = _areas(sorted_boxes, offset)
    left = np.arange(len(order))
    groups = []
    while len(left):
        gone = suppresses(_ious(sorted_boxes[left], areas[left], offset))
        first, rest = left[:1], left[1:]
        groups.append(order[np.concatenate([first, rest[gone]])])
        left = rest[~gone]
    return groups


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices (K,), int64, of the boxes to keep, by descending score.

    A box is removed if its IoU with a better one is above `iou_threshold`. With
    `offset` 1, a box from pixel 0 to pixel 9 is ten pixels wide.
    """
    boxes, scores = widened(boxes.detach(), scores.detach())
    threshold = _float32(iou_threshold)
    if offset == 0:
        return OPS.nms(boxes, scores, threshold)
    # torchvision's nms with x2 + 1 would lose digits compared with x2 - x1 + 1.
    groups = _groups(boxes, scores, offset, lambda ious: ious > threshold)
    keep = torch.tensor([group[0] for group in groups], dtype=torch.long)
    return keep.to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group `dets` (N, 5), boxes with scores, by an IoU of at least the threshold."""
    dets = widened(dets.detach())[0]
    threshold = _float32(iou_threshold)
    groups = _groups(dets[:, :4], dets[:, 4], 0, lambda ious: ious >= threshold)
    return [group.tolist() for group in groups]


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, *, iou_threshold: float, sigma: float,
    min_score: float, method: int, offset: int,
) -> Tensor:  # fmt: skip
    """Lower the scores of boxes that overlap better ones (1704.04503), on a CPU.

    `method` 0 sets scores to zero and 1 multiplies them by 1 - IoU, from a threshold
    on; 2 multiplies them by exp(-IoU ** 2 / sigma). Boxes whose score falls below
    `min_score` are removed. Writes boxes and new scores into `dets` (N, 5), by
    descending score, and returns their indices (K,).
    """
    wide, wide_scores = widened(boxes.detach(), scores.detach())
    box, score = wide.numpy(), wide_scores.numpy().copy()
    area = _areas(box, offset)
    order = np.arange(len(box))  # the first i are selected, the others remaining
    rows = np.zeros((len(box), 5), box.dtype)
    i = 0
    while i < len(order):
        best = i + score[order[i:]].argmax()
        order[[i, best]] = order[[best, i]]
        rows[i] = (*box[order[i]], score[order[i]])
        iou = _ious(box[order[i:]], area[order[i:]], offset)
        if method == 2:
            factor = np.exp(-(iou * iou) / sigma)
        else:
            factor = np.where(iou >= _float32(iou_threshold), method * (1 - iou), 1)
        i += 1
        score[order[i:]] *= factor.astype(score.dtype)
        order = _without(order, i, score < _float32(min_score))
    dets.copy_(torch.from_numpy(rows))
    return torch.from_numpy(order)


def _without(order: np.ndarray, start: int, gone: np.ndarray) -> np.ndarray:
    """Remove `gone` from `start` on, moving the last into its place, as in mmcv."""
    end = len(order)
    for place in start + np.flatnonzero(gone[order[start:]]):
        while place < end and gone[order[place]]:
            end -= 1
            order[place] = order[end]
    return order[:end]
