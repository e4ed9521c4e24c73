"""Reading LabelMe's JSON files, one per image."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmmeta.data.faults import WARNING, Faults
from mmmeta.data.locate import report_unused
from mmmeta.data.masks import bounds, encode
from mmmeta.data.model import Box, DataSet, Item, Object, Split, task_of
from mmmeta.data.names import LISTS, read_names
from mmmeta.data.text import read_json, sniff
from mmmeta.data.tree import Tree, base, folder, in_order, split_of, stem

LAYOUT = 'LabelMe: NAME.json with "shapes" and "imagePath" beside NAME.jpg'
CIRCLE = 64  # corners of a circle's polygon
NO_CLASSES = ('__ignore__', '_background_')  # in the first lines of labels.txt


def find(tree: Tree) -> list[str]:
    """Return LabelMe's files."""
    found = []
    for name in tree.having('.json'):
        text = sniff(tree, name)
        if '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text):
            found.append(name)
    # Damaged ones may not have both.
    places = {folder(name) for name in found}
    beside = [name for name in tree.having('.json') if folder(name) in places]
    return [name for name in beside if base(name) not in LISTS]


def read(tree: Tree, files: list[str]) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        files: Those of `find`.
    """
    reader = _Reader(tree)
    entries = {file: entry for file in files if (entry := reader.file(file))}
    listed = [n for n in read_names(tree, reader.faults).names if n not in NO_CLASSES]
    found = {name for _, shapes in entries.values() for name, _ in shapes}
    classes = listed if found & set(listed) else sorted(found)
    labels = {name: i for i, name in enumerate(classes)}
    for file, (item, shapes) in entries.items():
        for name, thing in shapes:
            if name in labels:
                thing.label = labels[name]
                item.objects.append(thing)
            elif name not in NO_CLASSES:
                detail = f'{name!r} is not in the list of classes'
                reader.faults.add('label-range', file, thing.where, detail)
    splits: dict[str, Split] = {}
    for file, (item, _) in entries.items():
        name, source = split_of(folder(file))
        start = tree.root / folder(file)
        split = splits.setdefault(name or 'train', Split([], start, start, source))
        split.items.append(item)
    for split in splits.values():
        _set_folders(tree, split)
    items = [item for item, _ in entries.values()]
    report_unused(tree, {tree.relative(item.path) for item in items}, reader.faults)
    lost = [
        f'{n} shapes of type {what} are not read' for what, n in reader.lost.items()
    ]
    task = task_of(items, reader.faults)
    splits = in_order(splits)
    return DataSet(tree.root, 'labelme', task, classes, splits, reader.faults, lost)


def image_content(path: Path) -> bytes:
    """Return the image that a LabelMe file contains.

    Raises:
        ValueError: It contains none.
    """
    return base64.b64decode(json.loads(path.read_bytes())['imageData'])


class _Reader:
    """Reads files; `lost` is the number of shapes that are not read, by type."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.faults = tree, Faults()
        self.lost: dict[str, int] = {}

    def file(self, file: str) -> tuple[Item, list[tuple[str, Object]]] | None:
        content = read_json(self.tree, file, self.faults)
        if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
            if content is not None:
                self.faults.add('file-unreadable', file, '', 'no list "shapes"')
            return None
        path, embedded = self._image(file, content)
        if path is None:
            given = content.get('imagePath')
            self.faults.add('image-missing', file, '', f'imagePath {given!r}')
            return None
        width, height = content.get('imageWidth'), content.get('imageHeight')
        stated = None
        if isinstance(width, int) and isinstance(height, int):
            stated = width, height
        item = Item(self.tree.root / path, base(path), source=file, stated=stated)
        item.embedded = embedded
        return item, self._objects(file, content['shapes'], stated)

    def _image(self, file: str, content: dict) -> tuple[str | None, bool]:
        """Return the image, and whether it is only inside of the file."""
        given = str(content.get('imagePath') or '').replace('\\', '/')
        start = folder(file)
        inner = f'{start}/{given}'.lstrip('/')
        path = self.tree.relative(self.tree.root / inner) if given else ''
        if path in self.tree.known or (path and os.path.isfile(self.tree.root / path)):
            return path, False
        near = self.tree.by_stem.get(stem(file), [])
        others = near or self.tree.by_base.get(base(given).lower(), [])
        if len(others) == 1:
            # It is found by its name, and conversion writes the right one.
            detail = f'{given} is {others[0]}'
            self.faults.add('image-path', file, '', detail, WARNING)
            return others[0], False
        if content.get('imageData'):
            self.faults.add('image-embedded', file)
            return f'{stem(file)}.{_kind(content["imageData"])}', True
        return None, False

    def _objects(
        self, file: str, shapes: list, size: tuple[int, int] | None
    ) -> list[tuple[str, Object]]:
        """Return names and objects; shapes of one group are one object."""
        found: list[tuple[str, Object]] = []
        groups: dict[tuple[str, Any], Object] = {}
        for number, shape in enumerate(shapes, 1):
            if not isinstance(shape, dict):
                continue
            name, where = str(shape.get('label')), f'shape {number}'
            thing = self._object(file, where, shape, size)
            if thing is None:
                continue
            key = name, shape.get('group_id')
            if key[1] is not None and thing.polygons:
                if key in groups:
                    first = groups[key]
                    first.polygons = [*(first.polygons or []), *thing.polygons]
                    first.box = bounds(first.polygons)
                    continue
                groups[key] = thing
            found.append((name, thing))
        return found

    def _object(
        self, file: str, where: str, shape: dict, size: tuple[int, int] | None
    ) -> Object | None:
        kind = shape.get('shape_type') or 'polygon'
        points = _points(shape.get('points'))
        if kind not in ('polygon', 'rectangle', 'circle', 'mask'):
            self.lost[str(kind)] = self.lost.get(str(kind), 0) + 1
            return None
        fewest = 3 if kind == 'polygon' else 2
        if points is None or len(points) < fewest:
            invalid = 'mask-invalid' if kind == 'polygon' else 'box-missing'
            self.faults.add(invalid, file, where, f'expected {fewest} points')
            return None
        given = shape.get('flags')
        flags = {k: v for k, v in given.items() if v} if isinstance(given, dict) else {}
        extra = {'attributes': flags} if flags else {}
        xs, ys = [x for x, _ in points], [y for _, y in points]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        if kind == 'rectangle':
            return Object(0, box, where=where, extra=extra)
        if kind == 'mask':
            return self._mask(file, where, shape, box, size)
        if kind == 'circle':
            (x, y), (u, v) = points[:2]
            radius = math.hypot(u - x, v - y)
            turns = [2 * math.pi * i / CIRCLE for i in range(CIRCLE)]
            points = [
                (x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns
            ]
        outline = [v for point in points for v in point]
        return Object(0, bounds([outline]), [outline], where=where, extra=extra)

    def _mask(
        self, file: str, where: str, shape: dict, box: Box, size: tuple[int, int] | None
    ) -> Object | None:
        """Return the object of a picture of a mask, which fills its box."""
        try:
            with Image.open(io.BytesIO(base64.b64decode(shape['mask']))) as picture:
                part = np.asarray(picture) > 0
        except (KeyError, ValueError, OSError) as error:
            self.faults.add('mask-invalid', file, where, str(error))
            return None
        x, y = round(box[0]), round(box[1])
        if size is None or x < 0 or y < 0:
            self.faults.add('mask-invalid', file, where, 'outside of the image')
            return None
        mask = np.zeros((size[1], size[0]), bool)
        height, width = mask[y : y + part.shape[0], x : x + part.shape[1]].shape
        mask[y : y + height, x : x + width] = part[:height, :width]
        ys, xs = np.nonzero(mask)
        if not len(ys):
            self.faults.add('mask-invalid', file, where, 'it is empty')
            return None
        left, top = float(xs.min()), float(ys.min())
        box = left, top, float(xs.max()) + 1 - left, float(ys.max()) + 1 - top
        return Object(0, box, rle=encode(mask), where=where)


def _points(value: Any) -> list[tuple[float, float]] | None:
    try:
        points = [(float(x), float(y)) for x, y in value]
    except (TypeError, ValueError):
        return None
    return points if np.isfinite(points).all() else None


def _kind(data: str) -> str:
    return 'png' if data.startswith('iVBOR') else 'jpg'


def _set_folders(tree: Tree, split: Split) -> None:
    """Set the folders that all images and all files of a split are in."""
    folders = {str(item.path.parent) for item in split.items}
    split.images = Path(os.path.commonpath(folders))
    sources = {str((tree.root / item.source).parent) for item in split.items}
    split.annotations = Path(os.path.commonpath(sources))
    for item in split.items:
        item.name = os.path.relpath(item.path, split.images).replace(os.sep, '/')
