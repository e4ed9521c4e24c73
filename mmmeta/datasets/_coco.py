"""Converts scenes to COCO's instance annotations."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmmeta.datasets._scene import CLASSES, Scene

# No dates: the same parameters must give the same bytes.
INFO = {
    'description': 'mmmeta-shapes, a synthetic data set',
    'version': '1.0',
    'contributor': 'mmmeta',
    'url': '',
}
LICENSES = [
    {
        'id': 1,
        'name': 'CC0 1.0',
        'url': 'https://creativecommons.org/publicdomain/zero/1.0/',
    }
]
# Outlines are traced on masks enlarged this many times: findContours runs
# through the centers of pixels, so half a pixel would be lost all around.
TRACE_SCALE = 4
# Maximum deviation of an outline from the traced one, and minimum area of a component
# that gets one, in pixels of the image.
TOLERANCE, MIN_COMPONENT = 0.5, 4.0


def _trace(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask's components; none if it has holes."""
    large = cv2.resize(
        np.pad(mask, 1).astype(np.uint8) * 255,
        None,
        fx=TRACE_SCALE,
        fy=TRACE_SCALE,
        interpolation=cv2.INTER_LINEAR,
    )
    large = (large >= 128).astype(np.uint8)
    contours, hierarchy = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if (hierarchy.reshape(-1, 4)[:, 3] >= 0).any():
        return []
    outlines = []
    for contour in contours:
        if cv2.contourArea(contour) >= MIN_COMPONENT * TRACE_SCALE**2:
            corners = cv2.approxPolyDP(contour, TOLERANCE * TRACE_SCALE, True)
            outlines.append((corners.reshape(-1, 2) + 0.5) / TRACE_SCALE - 1)
    return [outline for outline in outlines if len(outline) >= 3]


def segmentation(mask: np.ndarray, box: tuple[int, int, int, int]) -> list | dict:
    """Convert a mask, bool (H, W), with bounding box (x, y, w, h), to COCO's format.

    Returns:
        A polygon ``[x, y, x, y, ...]`` for each component; compressed RLE if
        the mask has holes, which polygons cannot express.
    """
    x, y, w, h = box
    outlines = _trace(mask[y : y + h, x : x + w])
    if outlines:
        return [(points + box[:2]).round(3).ravel().tolist() for points in outlines]
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': list(rle['size']), 'counts': rle['counts'].decode()}


class Instances:
    """The content of a COCO instances file, filled scene by scene."""

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, file_name: str, scene: Scene) -> None:
        """Add a scene whose image is in the given file."""
        height, width = scene.image.shape[:2]
        image = {'height': height, 'width': width, 'file_name': file_name}
        self.images.append({'id': len(self.images) + 1, 'license': 1, **image})
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            annotation = {
                'id': len(self.annotations) + 1,
                'image_id': len(self.images),
                'category_id': int(label) + 1,
                'bbox': [float(value) for value in (x, y, w, h)],
                'area': float(mask.sum()),
                'iscrowd': 0,
                'segmentation': segmentation(mask, (x, y, w, h)),
            }
            self.annotations.append(annotation)

    def content(self) -> dict:
        """Return the content of the file."""
        categories = [
            {'id': k, 'name': name, 'supercategory': 'shape'}
            for k, name in enumerate(CLASSES, 1)
        ]
        return {
            'info': INFO,
            'licenses': LICENSES,
            'images': self.images,
            'annotations': self.annotations,
            'categories': categories,
        }
