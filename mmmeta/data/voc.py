"""Reading Pascal VOC's XML files of boxes.

VOC counts pixels from 1, and `xmax` and `ymax` are the last pixels of the object: the
box of a whole image of 500x400 is (1, 1, 500, 400). It is read as x = 0, y = 0 and
500x400 pixels, as Detectron2 does. (MMDetection reads one pixel less.) Several tools
count from 0: if any box of a data set begins at 0, all are read so, with
`xmax - xmin` as the width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from mmmeta.data.faults import Faults
from mmmeta.data.locate import report_unused
from mmmeta.data.model import DataSet, Item, Object, Split, task_of
from mmmeta.data.names import read_names
from mmmeta.data.text import decode, read_text, sniff
from mmmeta.data.tree import (
    Tree,
    base,
    common_folder,
    folder,
    in_order,
    split_of,
    stem,
)

LAYOUT = (
    'Pascal VOC: Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/train.txt'
)
FLAGS = ('truncated', 'difficult', 'occluded')  # whole numbers; `pose` is text
CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class _Found(NamedTuple):
    """An object of a file: its class, xmin, ymin, xmax and ymax, and the rest."""

    name: str
    corners: tuple[float, ...]
    where: str
    extra: dict


def find(tree: Tree) -> list[str]:
    """Return the XML files of annotations."""
    files = tree.having('.xml')
    return [name for name in files if '<annotation' in sniff(tree, name, 2048)]


def read(tree: Tree, files: list[str]) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        files: Those of `find`.
    """
    reader = _Reader(tree)
    entries = {}
    for file in files:
        entry = reader.file(file)
        if entry:
            entries[file] = entry
    classes = _classes(tree, reader, entries)
    zero = _counts_from_zero(reader.faults, entries)
    labels = {name: i for i, name in enumerate(classes)}
    for file, (item, found) in entries.items():
        for one in found:
            if one.name not in labels:
                detail = f'{one.name!r} is not in the list of classes'
                reader.faults.add('label-range', file, one.where, detail)
                continue
            x1, y1, x2, y2 = one.corners
            if not zero:
                x1, y1 = x1 - 1, y1 - 1
            box = (x1, y1, x2 - x1, y2 - y1)
            thing = Object(labels[one.name], box, where=one.where, extra=one.extra)
            item.objects.append(thing)
    splits = _splits(tree, {file: item for file, (item, _) in entries.items()}, reader)
    items = [item for item, _ in entries.values()]
    report_unused(tree, {tree.relative(item.path) for item in items}, reader.faults)
    lost = [f'{what} of {n} objects are not read' for what, n in reader.lost.items()]
    maps = [name for name in tree.files if 'SegmentationClass/' in name]
    if maps:
        place = folder(maps[0])
        lost.append(f'the maps in {place} are not read; without the XML files they are')
    faults, task = reader.faults, task_of(items, reader.faults)
    return DataSet(tree.root, 'voc', task, classes, splits, faults, lost)


class _Reader:
    """Reads XML files; `lost` is what is not read, with the number of objects."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.faults = tree, Faults()
        self.lost: dict[str, int] = {}
        self.failed: set[str] = set()  # names of files that are faults already

    def file(self, file: str) -> tuple[Item, list[_Found]] | None:
        try:
            top = _parse((self.tree.root / file).read_bytes())
        except (OSError, ElementTree.ParseError, ValueError) as error:
            self.faults.add('file-unreadable', file, '', str(error))
            self.failed.add(base(stem(file)))
            return None
        given = (top.findtext('filename') or '').strip().replace('\\', '/')
        path = self._image(file, base(given))
        found = [
            one
            for number, node in enumerate(top.iter('object'), 1)
            if (one := self._object(file, f'object {number}', node))
        ]
        if path is None:
            detail = f'no image {base(given) or base(stem(file))}'
            self.faults.add('annotation-alone', file, '', detail)
            self.failed.add(base(stem(file)))
            return None
        width, height = (
            _number(top.findtext(f'size/{k}')) for k in ('width', 'height')
        )
        stated = None
        if width and height:  # some tools write 0
            stated = int(width), int(height)
        item = Item(self.tree.root / path, base(path), source=file, stated=stated)
        return item, found

    def _image(self, file: str, given: str) -> str | None:
        """Return the image of a file: the one of its name, else the one it names."""
        inside = folder(folder(file))
        near = [folder(file)]
        for place in ('JPEGImages', 'images', 'Images', 'imgs', ''):
            near.append(f'{inside}/{place}'.strip('/'))
        last = base(folder(file))  # Annotations/train beside images/train
        near += [f'{p}/{last}' for p in near[1:] if p]
        upper = folder(inside)
        near += [f'{upper}/{p}/{last}'.strip('/') for p in ('JPEGImages', 'images')]
        name = base(stem(file))
        for place in near:
            paths = self.tree.by_stem.get(f'{place}/{name}'.strip('/'))
            if paths:
                return paths[0]
        for place in near:
            if given and (path := f'{place}/{given}'.strip('/')) in self.tree.known:
                return path
        others = self.tree.by_base.get(given.lower(), [])
        return others[0] if len(others) == 1 else None

    def _object(
        self, file: str, where: str, node: ElementTree.Element
    ) -> _Found | None:
        name = (node.findtext('name') or '').strip()
        corners = [_number(node.findtext(f'bndbox/{key}')) for key in CORNERS]
        known = tuple(v for v in corners if v is not None)
        if not name or len(known) < 4:
            detail = 'no name' if not name else 'no numbers xmin, ymin, xmax, ymax'
            self.faults.add('box-missing', file, where, detail)
            return None
        extra: dict = {}
        for key in FLAGS:
            value = _number(node.findtext(key))
            if value is not None:
                extra[key] = int(value)
        pose = (node.findtext('pose') or '').strip()
        if pose:
            extra['pose'] = pose
        for key, what in (('part', 'parts'), ('polygon', 'polygons')):
            if node.find(key) is not None:
                self.lost[what] = self.lost.get(what, 0) + 1
        return _Found(name, known, where, extra)


def _parse(content: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError:  # perhaps not the encoding that it states
        text = decode(content)[0]
        return ElementTree.fromstring(text.partition('?>')[2] or text)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or '')
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _classes(tree: Tree, reader: _Reader, entries: dict) -> list[str]:
    """Return the listed classes, else those of the objects by alphabet."""
    listed = read_names(tree, reader.faults).names
    found = {one.name for _, found in entries.values() for one in found}
    return listed if found & set(listed) else sorted(found)


def _counts_from_zero(faults: Faults, entries: dict) -> bool:
    zero = False
    for file, (_, found) in entries.items():
        for one in found:
            # Far outside it is a mistake, which says nothing.
            if -1 < min(one.corners[:2]) < 1:
                zero = True
                faults.add('origin', file, one.where, f'{one.corners}')
    return zero


def _splits(tree: Tree, entries: dict[str, Item], reader: _Reader) -> dict[str, Split]:
    """Return the splits that ImageSets/Main lists, else those of the folders' names."""
    found: dict[str, tuple[list[Item], str]] = {}
    used: set[str] = set()
    for split, source, lists in _lists(tree):
        items = found.setdefault(split, ([], source))[0]
        for name in lists:
            by_name = {
                base(stem(file)): file
                for file in entries
                if folder(folder(file)) == folder(folder(folder(name)))
            }
            for number, row in _rows(tree, name, reader.faults):
                key = base(row)
                if key in reader.failed:
                    continue
                if key not in by_name:
                    detail = f'{key} has no XML file or no image'
                    reader.faults.add('file-missing', name, f'line {number}', detail)
                elif by_name[key] in used:
                    reader.faults.add('image-twice', name, f'line {number}', key)
                else:
                    used.add(by_name[key])
                    items.append(entries[by_name[key]])
    if not found:
        for file, item in entries.items():
            split, source = split_of(folder(file))
            found.setdefault(split or 'train', ([], source))[0].append(item)
            used.add(file)
    for file in entries:
        if file not in used:
            reader.faults.add('file-unused', file, '', 'no split lists it')
    splits = {}
    for split, (items, source) in found.items():
        images = common_folder([tree.relative(item.path) for item in items])
        for item in items:  # relative to what several years have in common
            item.name = tree.relative(item.path)[len(images) :].lstrip('/')
        where = tree.root / common_folder([item.source for item in items])
        splits[split] = Split(items, tree.root / images, where, source)
        if not items:
            reader.faults.add('split-empty', '', split)
    return in_order(splits)


def _lists(tree: Tree) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the splits of ImageSets/Main, what each is called, and its lists.

    `trainval` counts only where there is no `train`; lists of one class never do.
    """
    lists = [n for n in tree.having('.txt') if base(folder(n)) in ('Main', 'ImageSets')]
    names = {base(stem(name)) for name in lists}
    for split, keys in {
        'train': ('train', 'trainval'),
        'val': ('val', 'valid'),
        'test': ('test',),
    }.items():
        key = next((key for key in keys if key in names), None)
        if key:
            yield split, key, [name for name in lists if base(stem(name)) == key]


def _rows(tree: Tree, name: str, faults: Faults) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(tree, name, faults).splitlines(), 1):
        if line.strip():
            row = line.split()[0]
            yield number, stem(row) if row.lower().endswith(('.jpg', '.png')) else row
