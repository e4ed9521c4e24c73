"""Masks of objects: outlines, COCO's RLE and pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmmeta.data.model import Box, Object
from mmmeta.errors import require
from mmmeta.runtime.masks import encode

__all__ = ['area', 'bounds', 'compressed', 'decode', 'encode', 'fault']

# Points farther outside than so many images are mistakes, for which pycocotools would
# run out of memory.
FAR = 10


def _library() -> Any:
    return require('pycocotools.mask', 'data', 'reading masks')


def bounds(polygons: list[list[float]]) -> Box:
    """Return the box around outlines [x, y, x, y, ...], in their units."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def compressed(thing: Object, height: int, width: int) -> dict[str, Any]:
    """Return an object's mask as compressed RLE, for pycocotools.

    Args:
        thing: An object with a mask.
        height: Of the image, in pixels.
        width: Likewise.

    Raises:
        ValueError: It is not valid.
    """
    library = _library()
    kind, detail = fault(thing, height, width)
    if kind:
        raise ValueError(detail)
    try:
        if thing.rle is not None:
            rle = thing.rle
            if isinstance(rle['counts'], list):
                return library.frPyObjects(rle, *rle['size'])
            return rle
        return library.merge(library.frPyObjects(thing.polygons, height, width))
    except Exception as error:  # the library raises what it likes
        raise ValueError(str(error)) from error


def decode(thing: Object, height: int, width: int) -> np.ndarray:
    """Return an object's mask, bool (H, W); see `compressed`.

    Raises:
        ValueError: It is not valid or of another size.
    """
    mask = _library().decode(compressed(thing, height, width)).astype(bool)
    if mask.shape != (height, width):
        raise ValueError(f'the mask is {mask.shape[1]}x{mask.shape[0]}')
    return mask


def area(thing: Object, height: int, width: int) -> float:
    """Return the pixels of an object's mask; without one the area of its box."""
    if not thing.masked:
        return thing.box[2] * thing.box[3]
    return float(_library().area(compressed(thing, height, width)))


def fault(thing: Object, height: int, width: int) -> tuple[str, str]:
    """Return the kind of fault of an object's mask, and what it is; ('', '') if none.

    Its numbers are checked without decoding it, except for compressed RLE.
    """
    if thing.polygons:
        for polygon in thing.polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                return 'mask-invalid', f'a polygon of {len(polygon)} numbers'
            if not _are_numbers(polygon):
                return 'mask-invalid', 'a polygon with values that are not numbers'
            if max(map(abs, polygon)) > FAR * (height + width):
                return 'mask-invalid', f'a point at {max(polygon, key=abs):g}'
    if thing.rle is None:
        return '', ''
    size, counts = thing.rle.get('size'), thing.rle.get('counts')
    if not isinstance(size, list) or len(size) != 2:
        return 'mask-invalid', f'RLE of size {size!r}'
    if size != [height, width]:
        detail = f'{size[1]}x{size[0]}, the image is {width}x{height}'
        return 'mask-size', detail
    if isinstance(counts, list):
        good = all(isinstance(n, int) and n >= 0 for n in counts)
        total = sum(counts) if good else -1
    else:
        total = _length(counts)
    if total != height * width:
        return 'mask-invalid', f'RLE of {total} pixels, not {height * width}'
    return '', ''


def _are_numbers(values: list) -> bool:
    try:
        finite = np.isfinite(values)
    except (TypeError, ValueError):
        return False
    return finite.ndim == 1 and bool(finite.all())


def _length(counts: Any) -> int:
    """Return the number of pixels that compressed counts mean; -1 if invalid.

    pycocotools would write outside of its memory for one that is too long.
    """
    data = counts.encode() if isinstance(counts, str) else counts
    if not isinstance(data, bytes):
        return -1
    values: list[int] = []
    place = 0
    while place < len(data):
        value = shift = 0
        more = True
        while more:
            if place >= len(data):
                return -1
            byte = data[place] - 48
            if not 0 <= byte < 64:
                return -1
            value |= (byte & 0x1F) << 5 * shift
            more = bool(byte & 0x20)
            place, shift = place + 1, shift + 1
            if not more and byte & 0x10:
                value |= -1 << 5 * shift
        if len(values) > 2:
            value += values[-2]
        if value < 0:
            return -1
        values.append(value)
    return sum(values)
