"""Selecting by value, with results of a fixed size.

Inside, shapes depend on the image (`nonzero`, `nms`), which all three exporters can
express; outside, none does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHORTEST = 1e-3  # side of a box in pixels


def nms_top(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, count: int
) -> Tensor:
    """Return the `count` best boxes that no better one of the same group overlaps.

    mmcv's `batched_nms`: a group is moved away from the others.

    Args:
        boxes: (N, 4), x1, y1, x2, y2, not negative.
        scores: (N,); those below zero are left out.
        groups: (N,), classes or levels, from 0.
        iou_threshold: Boxes with an IoU above it overlap.
        count: Length of the result.

    Returns:
        Indices (count,), int64, by descending score; -1 follows the last.
    """
    import torchvision

    chosen = (scores >= 0).nonzero().squeeze(1)
    boxes, scores = boxes[chosen], scores[chosen]
    limit = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).amax(0) + 1
    moved = boxes + (groups[chosen].to(boxes) * limit)[:, None]
    kept = torchvision.ops.nms(moved, scores, iou_threshold)
    indices = torch.cat([chosen[kept], chosen.new_full((count,), -1)])
    return indices[:count]


def roi_align_levels(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """Return the regions (N, C, size, size) of boxes, each from the map of its level.

    RoIAlign (1703.06870) with half-pixel coordinates, mmcv's `aligned=True`.

    Args:
        maps: (1, C, H, W) each.
        boxes: (N, 4) in pixels of the image.
        levels: (N,), int64, indices of `maps`.
        size: Bins per side.
        scales: Of each map to the image.
        sampling_ratio: Samples per side of a bin; 0: as many as it has pixels.
    """
    import torchvision

    # For boxes without area, such as those that fill up, OpenVINO would give NaN, and
    # PyTorch gives 0.
    corners, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    boxes = torch.cat([corners, corners + sides.clamp(min=SHORTEST)], 1)
    regions = []
    for i, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        here = (levels == i).nonzero().squeeze(1)
        rois = torch.cat([boxes.new_zeros(here.shape[0], 1), boxes[here]], 1)
        regions.append(
            torchvision.ops.roi_align(
                x, rois, (size, size), scale, sampling_ratio, aligned=True
            )
        )
    # Back from the order by level. Writing them into zeros instead would store these
    # in OpenVINO's file, 70 MB for Mask R-CNN.
    count = levels.shape[0]
    by_level = (levels * count + torch.arange(count, device=levels.device)).argsort()
    out = torch.cat(regions)[by_level.argsort()]
    return out * (sides > 0).all(1)[:, None, None, None]
