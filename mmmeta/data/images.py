"""Sizes of image files and whether they are complete, mostly without decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image
from tqdm import tqdm

from mmmeta.errors import one_line
from mmmeta.hosts.images import load_picture, max_pixels, open_picture, orientation

SIDEWAYS = range(5, 9)  # orientations of EXIF that exchange width and height
TAIL = 4096  # bytes; cameras append data of their own
A = TypeVar('A')
B = TypeVar('B')


class Facts(NamedTuple):
    """What a file says of its image.

    Attributes:
        width: In pixels, turned as EXIF says; 0 if it cannot be read.
        height: Likewise.
        orientation: Of EXIF, 1 to 8; 1 is upright.
        error: Why it cannot be read; '' if it can.
        bytes: Size of the file.
    """

    width: int
    height: int
    orientation: int
    error: str
    bytes: int


def inspect(path: Path) -> Facts:
    """Return what a file says of its image; decode it only if it seems incomplete."""
    try:
        size = path.stat().st_size
        with open_picture(path) as image:
            width, height = image.size
            turn = _orientation(image)
            kind = image.format or ''
        if not _seems_complete(path, size, kind) and width * height <= max_pixels():
            load_picture(path)
    except FileNotFoundError:
        return Facts(0, 0, 1, 'missing', 0)
    except Exception as error:  # decoders may raise anything for damaged files
        if os.path.isfile(path) and path.stat().st_size == 0:
            return Facts(0, 0, 1, 'the file is empty', 0)
        return Facts(0, 0, 1, one_line(error).replace(str(path), path.name), 0)
    if turn in SIDEWAYS:
        width, height = height, width
    return Facts(width, height, turn, '', size)


def _orientation(image: Image.Image) -> int:
    # Without EXIF data before its pixels, asking for it would load a PNG.
    if image.format == 'PNG' and 'exif' not in image.info:
        return 1
    return orientation(image)


def _seems_complete(path: Path, size: int, kind: str) -> bool:
    """Whether a file ends as its format does; False if that does not tell."""
    with path.open('rb') as file:
        head = file.read(12)
        file.seek(max(0, size - TAIL))
        tail = file.read()
    if kind in ('JPEG', 'MPO'):
        return b'\xff\xd9' in tail
    if kind == 'PNG':
        return b'IEND\xaeB`\x82' in tail
    if kind == 'WEBP':
        return int.from_bytes(head[4:8], 'little') + 8 <= size
    return False


def in_threads(
    work: Callable[[A], B], items: Iterable[A], what: str
) -> Iterator[tuple[A, B]]:
    """Yield each item with the result of a function, in the given order.

    Pillow decodes in parallel. A bar shows the progress, on a terminal.

    Args:
        work: The function; it must not raise.
        items: Its arguments.
        what: Title of the bar.
    """
    items = list(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(work, items)
        bar = tqdm(results, what, len(items), leave=False, disable=None)
        yield from zip(items, bar, strict=True)


def inspect_all(paths: Iterable[Path]) -> dict[Path, Facts]:
    """Return the facts of many files."""
    return dict(in_threads(inspect, dict.fromkeys(paths), 'images'))
