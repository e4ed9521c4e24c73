"""Reading COCO's instance annotations, also as Roboflow and CVAT write them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmmeta.data.faults import Faults
from mmmeta.data.locate import find_image, image_folder, report_unused
from mmmeta.data.model import Box, DataSet, Item, Object, Split, task_of
from mmmeta.data.names import LISTS
from mmmeta.data.text import read_json, sniff
from mmmeta.data.tree import Tree, base, folder, in_order, split_of

LAYOUT = 'COCO: NAME.json with "images", "annotations" and "categories", and the images'
# Files of COCO about the same images as those that begin with `instances`.
OTHERS = ('captions', 'person_keypoints', 'panoptic', 'stuff', 'image_info')
LISTS_OF_COCO = ('images', 'annotations', 'categories')
_READ = {'bbox', 'category_id', 'image_id', 'iscrowd', 'segmentation'}
_OF_IMAGE = {'file_name', 'width', 'height'}


def find(tree: Tree) -> list[str]:
    """Return the files that seem to be COCO's."""
    found = []
    for name in tree.having('.json'):
        text = sniff(tree, name)
        if '"images"' in text and '"imagePath"' not in text:
            keys = ('"annotations"', '"categories"', '"file_name"')
            if any(key in text for key in keys):
                found.append(name)
    instances = [name for name in found if not base(name).startswith(OTHERS)]
    return instances or found


def read(tree: Tree, files: list[str]) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        files: Those of `find`; one per split is read.
    """
    faults = Faults()
    reader = _Reader(tree, faults)
    splits: dict[str, Split] = {}
    # Of several files of a split, COCO's own name comes first, then the shortest.
    files = sorted(files, key=lambda f: (not base(f).startswith('instances'), len(f)))
    for name in sorted(files, key=lambda f: split_of(f)[0] != 'train'):
        split, source = split_of(name)
        if (split or 'train') in splits:
            detail = f'{split or "train"} is in another file'
            faults.add('file-unused', name, '', detail)
            continue
        content = read_json(tree, name, faults)
        if content is None:
            continue
        if not isinstance(content, dict):
            faults.add('file-unreadable', name, '', 'expected an object')
            continue
        missing = [k for k in ('images', 'annotations') if k not in content]
        if missing:
            faults.add('file-unreadable', name, '', f'no list "{missing[0]}"')
        splits[split or 'train'] = reader.split(name, content, split, source)
    _report_others(tree, files, splits, faults)
    splits = in_order(splits)
    reader.drop_group(splits)
    items = [item for split in splits.values() for item in split.items]
    report_unused(tree, {tree.relative(item.path) for item in items}, faults)
    return DataSet(
        tree.root,
        'coco',
        task_of(items, faults),
        list(reader.names.values()),
        splits,
        faults,
        reader.lost,
        list(reader.names),
        reader.extra,
    )


def _report_others(
    tree: Tree, files: list[str], splits: dict[str, Split], faults: Faults
) -> None:
    """Record JSON files beside those of COCO that are not COCO's."""
    places = {folder(name) for name in files}
    ours = set(find(tree))
    for name in tree.having('.json'):
        known = name in ours or base(name).startswith(OTHERS) or base(name) in LISTS
        if known or folder(name) not in places:
            continue
        split = split_of(base(name))[0]
        if split and split not in splits:
            faults.add('file-unreadable', name, '', 'no list "images"')
        else:
            faults.add('file-unused', name, '', 'no list "images"')


class _Reader:
    """Reads the files of the splits, of which the first one gives the classes.

    Attributes:
        names: Class names by id, in the order of the file.
        extra: What else the files say of categories, by id.
        lost: What is not read.
    """

    def __init__(self, tree: Tree, faults: Faults) -> None:
        self.tree, self.faults = tree, faults
        self.names: dict[Any, str] = {}
        self.extra: dict[Any, dict[str, Any]] = {}
        self.lost: list[str] = []

    def split(self, file: str, content: dict, split: str, source: str) -> Split:
        labels = self._labels(file, content)
        records = list(self._records(file, content, 'images'))
        names = [_slashes(record.get('file_name')) for record in records]
        start = image_folder(self.tree, names, split, file)
        items: dict[Any, Item] = {}
        seen: set[str] = set()
        for number, (record, name) in enumerate(zip(records, names, strict=True), 1):
            where = f'image {record.get("id", f"number {number}")}'
            if _key(record.get('id')) is None or not name:
                detail = 'no file_name' if 'id' in record else 'no id'
                self.faults.add('id-missing', file, where, detail)
                continue
            if _key(record['id']) in items:
                self.faults.add('id-twice', file, where, name)
                continue
            if name in seen:
                self.faults.add('image-twice', file, where, name)
            seen.add(name)
            items[_key(record['id'])] = self._item(file, where, record, name, start)
        self._annotations(file, content, items, labels)
        root = self.tree.root
        extra = {k: v for k, v in content.items() if k not in LISTS_OF_COCO}
        return Split(list(items.values()), root / start, root / file, source, extra)

    def drop_group(self, splits: dict[str, Split]) -> None:
        """Leave out the category that only names the group of the others.

        Roboflow puts it first, with the id 0.
        """
        items = [item for split in splits.values() for item in split.items]
        used = {thing.label for item in items for thing in item.objects}
        ids = list(self.names)
        for label, key in enumerate(ids):
            name = self.names[key]
            groups = {
                str(self.extra.get(k, {}).get('supercategory')) for k in ids if k != key
            }
            if label not in used and groups == {name}:
                del self.names[key]
                for item in items:
                    for thing in item.objects:
                        thing.label -= thing.label > label
                self.lost.append(
                    f'category {name!r} (id {key}) is left out: it is the group of the '
                    'others and has no objects'
                )
                return

    def _records(self, file: str, content: dict, key: str) -> Iterator[dict]:
        rows = content.get(key)
        for number, row in enumerate(rows if isinstance(rows, list) else [], 1):
            if isinstance(row, dict):
                yield row
            else:
                where = f'{key} number {number}'
                self.faults.add('file-unreadable', file, where, 'expected an object')

    def _labels(self, file: str, content: dict) -> dict[Any, int]:
        """Return the labels by category id; the first file's categories count."""
        names: dict[Any, str] = {}
        for number, row in enumerate(self._records(file, content, 'categories'), 1):
            where = f'category {row.get("id", f"number {number}")}'
            if _key(row.get('id')) is None or 'name' not in row:
                self.faults.add('id-missing', file, where, 'no id or name')
                continue
            if _key(row['id']) in names:
                self.faults.add('id-twice', file, where, str(row['name']))
                continue
            names[_key(row['id'])] = str(row['name'])
            rest = {k: v for k, v in row.items() if k not in ('id', 'name')}
            self.extra.setdefault(_key(row['id']), rest)
        if not names:
            rows = self._records(file, content, 'annotations')
            used = {_key(row.get('category_id')) for row in rows}
            numbers = sorted(key for key in used if isinstance(key, int))
            names = self.names or {key: str(key) for key in numbers}
            self.faults.add('id-missing', file, '', 'no categories')
        if not self.names:
            self.names = names
        elif list(names.items()) != list(self.names.items()):
            detail = f'{len(names)} categories, the training split has others'
            different = set(names.items()) ^ set(self.names.items())
            if different:
                key, name = min(different, key=str)
                detail += f', such as {name!r} (id {key})'
            elif names:
                detail = 'they are in another order than in the training split'
            self.faults.add('class-count', file, 'categories', detail)
        places = {name: i for i, name in enumerate(self.names.values())}
        if len(places) < len(self.names):  # names that repeat
            return {key: i for i, key in enumerate(self.names)}
        return {key: places[name] for key, name in names.items() if name in places}

    def _item(self, file: str, where: str, record: dict, name: str, start: str) -> Item:
        path = find_image(self.tree, start, name, self.faults, file, where)
        width, height = record.get('width'), record.get('height')
        stated = None
        if isinstance(width, int) and isinstance(height, int):
            stated = width, height
        extra = {k: v for k, v in record.items() if k not in _OF_IMAGE}
        given = str(record['file_name'])
        if '\\' in given and path in self.tree.known:
            detail = f'{given} has backslashes'
            self.faults.add('image-path', file, where, detail)
        return Item(
            self.tree.root / path, name, source=file, stated=stated, extra=extra
        )

    def _annotations(
        self, file: str, content: dict, items: dict[Any, Item], labels: dict[Any, int]
    ) -> None:
        faults = self.faults
        seen = set()
        for number, row in enumerate(self._records(file, content, 'annotations'), 1):
            where = f'annotation {row.get("id", f"number {number}")}'
            key = _key(row.get('id'))
            if key is None:
                faults.add('id-missing', file, where, 'no id')
                row.pop('id', None)
            elif key in seen:
                faults.add('id-twice', file, where)
            seen.add(key)
            image, category = row.get('image_id'), row.get('category_id')
            item = items.get(_key(image))
            if item is None:
                detail = f'no image has the id {image!r}'
                faults.add('id-missing', file, where, detail)
                continue
            label = labels.get(_key(category))
            if label is None:
                detail = f'no category has the id {category!r}'
                faults.add('label-range', file, where, detail)
                continue
            box = as_box(row.get('bbox'))
            if box is None:
                detail = f'bbox {row.get("bbox")!r}'
                faults.add('box-missing', file, where, detail[:80])
                continue
            extra = {k: v for k, v in row.items() if k not in _READ}
            thing = Object(label, box, crowd=bool(row.get('iscrowd')), where=where)
            thing.extra = extra
            self._mask(file, thing, row.get('segmentation'))
            item.objects.append(thing)

    def _mask(self, file: str, thing: Object, mask: Any) -> None:
        """Set an object's mask; whether its numbers make sense is checked later."""
        if isinstance(mask, dict) and 'counts' in mask and 'size' in mask:
            thing.rle = mask
        elif isinstance(mask, list) and all(isinstance(p, list) for p in mask):
            thing.polygons = mask or None
        elif mask:
            detail = 'segmentation is neither a list of polygons nor RLE'
            self.faults.add('mask-invalid', file, thing.where, detail)


def as_box(value: Any) -> Box | None:
    """Return four finite numbers, or None."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in value):
        return None
    x, y, width, height = (float(v) for v in value)
    return x, y, width, height


def _key(value: Any) -> Any:
    """Return an id that can be a key; 1 and '1' differ, as for pycocotools."""
    return value if isinstance(value, (int, str)) else None


def _slashes(name: Any) -> str:
    text = str(name or '').replace('\\', '/')
    return text.removeprefix('./')
