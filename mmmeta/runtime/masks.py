"""Masks of boxes as masks of the image, and these in COCO's encoding."""

from typing import Any

import numpy as np

from mmmeta.errors import require


def paste(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float
) -> np.ndarray:
    """Return masks of the image, bool (N, H, W).

    Bilinear, with the pixels' centers at half-integers, and nothing outside of a box,
    as MMDetection and Detectron2 do.

    Args:
        masks: Of the boxes (N, h, w), from 0 to 1.
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the image.
        size: H and W.
        threshold: A pixel is in the mask from this value on.
    """
    height, width = size
    out = np.zeros((len(masks), height, width), bool)
    for i, (mask, (x1, y1, x2, y2)) in enumerate(zip(masks, boxes, strict=True)):
        # Beyond these pixels all weights are zero.
        left, right = _span(x1, x2, width)
        top, bottom = _span(y1, y2, height)
        if left >= right or top >= bottom:
            continue
        rows = _weights(top, bottom, y1, y2, mask.shape[0])
        columns = _weights(left, right, x1, x2, mask.shape[1])
        out[i, top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return out


def _span(low: float, high: float, full: int) -> tuple[int, int]:
    margin = 1.0  # MMDetection's
    start = int(np.clip(np.floor(low) - margin, 0, full))
    return start, int(np.clip(np.ceil(high) + margin, 0, full))


def _weights(start: int, stop: int, low: float, high: float, count: int) -> np.ndarray:
    """Return the weights (pixels, count) of a mask's values at pixels of the image."""
    with np.errstate(divide='ignore', invalid='ignore'):  # a box without area
        place = (np.arange(start, stop, dtype=np.float32) + 0.5 - low) / (high - low)
    place = place * count - 0.5
    weights = 1 - np.abs(place[:, None] - np.arange(count, dtype=np.float32))
    return np.nan_to_num(np.maximum(weights, 0), posinf=0, neginf=0).astype(np.float32)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool (H, W), as COCO's compressed RLE, as JSON can have it.

    Raises:
        MissingLibraryError: pycocotools is not installed.
    """
    coco = require('pycocotools.mask', 'runtime', 'a file with masks')
    found = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        'size': [int(side) for side in found['size']],
        'counts': found['counts'].decode(),
    }
