"""Faults that any data set may have, whatever its format."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

from mmmeta.data import masks
from mmmeta.data.faults import Faults
from mmmeta.data.images import SIDEWAYS, Facts, inspect_all
from mmmeta.data.model import DataSet, Item, Object
from mmmeta.hosts.images import max_pixels

# Pixels by which a box may end outside of its image: tools round, and Pascal VOC's
# convention is often mistaken by one.
TOLERANCE = 1.5
PART = 1 << 14  # bytes that are compared first


def check(data: DataSet) -> None:
    """Check images, objects, maps and classes; faults are added to the data set.

    The sizes of the items are set, as the files have them.
    """
    items = data.items
    facts = inspect_all(item.path for item in items if not item.embedded)
    for item in items:
        name = data_path(data, item)
        if item.embedded:
            item.width, item.height = item.stated or (0, 0)
        else:
            _check_image(item, facts[item.path], name, data.faults)
        for thing in item.objects:
            _check_object(item, thing, len(data.classes), data.faults)
        _check_twice(item, data.faults)
        _check_map(item, data.faults)
    if not items and not data.problems:
        data.faults.add('split-empty', '', '', 'there are no images at all')
    _check_splits(data, facts)
    _check_classes(data)


def data_path(data: DataSet, item: Item) -> str:
    """Return the path of an item's image, for a message."""
    try:
        return item.path.relative_to(data.root).as_posix()
    except ValueError:
        return str(item.path)


def _check_image(item: Item, facts: Facts, name: str, faults: Faults) -> None:
    if facts.error == 'missing':
        if item.source == '':  # else said by the reader
            faults.add('image-missing', name)
        item.width, item.height = item.stated or (0, 0)
        return
    if facts.error:
        faults.add('image-unreadable', name, '', facts.error)
        item.width, item.height = item.stated or (0, 0)
        return
    item.width, item.height = facts.width, facts.height
    if facts.width * facts.height > max_pixels():
        faults.add('image-huge', name, '', f'{facts.width}x{facts.height}')
    stored = (facts.width, facts.height)
    if facts.orientation in SIDEWAYS:
        stored = stored[::-1]
    annotated = item.stated or item.extra.get('map_size')
    if facts.orientation != 1:
        detail = f'orientation {facts.orientation}'
        known = annotated and stored[0] != stored[1]
        if known and stored == annotated and facts.orientation in SIDEWAYS:
            faults.add('size-turned', name, '', f'annotated as {_size(stored)}')
            return
        if not (known and facts.orientation in SIDEWAYS):
            faults.add('image-turned', name, '', detail)
    seen = facts.width, facts.height
    if item.stated and item.stated != seen:
        detail = f'{_size(seen)}, annotated as {_size(item.stated)}'
        faults.add('size-differs', name, '', detail)


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _check_object(item: Item, thing: Object, classes: int, faults: Faults) -> None:
    x, y, width, height = thing.box
    size = item.size  # a wrong one is a fault of its own
    if classes and not 0 <= thing.label < classes:
        detail = f'{thing.label}, expected 0 to {classes - 1}'
        faults.add('label-range', item.source, thing.where, detail)
    shown = f'x {x:g}, y {y:g}, {width:g}x{height:g}'
    if width <= 0 or height <= 0:
        faults.add('box-empty', item.source, thing.where, shown)
    elif item.width:
        shown += f', the image is {_size(size)}'
        right, bottom = x + width, y + height
        if right <= 0 or bottom <= 0 or x >= size[0] or y >= size[1]:
            faults.add('box-outside', item.source, thing.where, shown)
        elif (
            min(x, y) < -TOLERANCE
            or right > size[0] + TOLERANCE
            or bottom > size[1] + TOLERANCE
        ):
            faults.add('box-over-edge', item.source, thing.where, shown)
    if thing.masked and item.width:
        kind, detail = masks.fault(thing, size[1], size[0])
        if kind:
            faults.add(kind, item.source, thing.where, detail)


def _check_twice(item: Item, faults: Faults) -> None:
    seen: dict[tuple, list[Object]] = defaultdict(list)
    for thing in item.objects:
        same = seen[thing.label, thing.box, thing.crowd]
        if any(o.polygons == thing.polygons and o.rle == thing.rle for o in same):
            faults.add('object-twice', item.source, thing.where)
        same.append(thing)


def _check_map(item: Item, faults: Faults) -> None:
    size = item.extra.get('map_size')
    # A map of (0, 0) could not be read.
    if item.map and item.width and size and all(size):
        shown = (item.width, item.height)
        # Of an image that EXIF turns, the fault is another one.
        if size != shown and not (size == shown[::-1] and _turned(item.path)):
            detail = f'{_size(size)}, the image is {_size(shown)}'
            faults.add('mask-size', item.source, '', detail)


def _turned(path: Path) -> bool:
    from mmmeta.data.images import inspect

    return inspect(path).orientation in SIDEWAYS


# -- splits -------------------------------------------------------------------


def _check_splits(data: DataSet, facts: dict[Path, Facts]) -> None:
    """Record images with the same bytes in two splits."""
    if len(data.splits) < 2:
        return
    by_size: dict[int, list[tuple[str, Item]]] = defaultdict(list)
    for name, split in data.splits.items():
        for item in split.items:
            if item.path in facts and facts[item.path].bytes:
                by_size[facts[item.path].bytes].append((name, item))
    for group in by_size.values():
        if len({name for name, _ in group}) > 1:
            _check_same(data, group)


def _check_same(data: DataSet, group: list[tuple[str, Item]]) -> None:
    """Record images with the same bytes, among files of the same size."""
    for whole in (False, True):  # first the ends of files, then all of them
        by_bytes: dict[bytes, list[tuple[str, Item]]] = defaultdict(list)
        for name, item in group:
            by_bytes[_digest(item.path, whole)].append((name, item))
        group = [
            row
            for rows in by_bytes.values()
            if len({name for name, _ in rows}) > 1
            for row in rows
        ]
    for rows in by_bytes.values():
        first, *others = rows
        for name, item in others:
            if name != first[0]:
                detail = f'{name}, and {data_path(data, first[1])} in {first[0]}'
                data.faults.add('split-overlap', data_path(data, item), '', detail)


def _digest(path: Path, whole: bool) -> bytes:
    with path.open('rb') as file:
        if not whole:
            file.seek(max(0, path.stat().st_size - PART))
        return hashlib.sha1(file.read()).digest()


def _check_classes(data: DataSet) -> None:
    seen: dict[str, str] = {}
    for name in data.classes:
        key = ' '.join(name.split()).casefold()
        if key in seen:
            data.faults.add('class-twice', '', repr(name), f'as {seen[key]!r}')
        seen.setdefault(key, name)
    train = data.splits.get('train')
    if train is None or not train.items:
        return
    counts = count_classes(train.items)
    for label, name in enumerate(data.classes):
        if not counts[label]:
            data.faults.add('class-empty', '', repr(name))


def count_classes(items: list[Item]) -> Counter[int]:
    """Return the number of objects, of pixels or of images of each class."""
    counts: Counter[int] = Counter()
    for item in items:
        counts.update(thing.label for thing in item.objects if not thing.crowd)
        counts.update(item.extra.get('counts', ()))
        if item.label is not None:
            counts[item.label] += 1
    return counts
