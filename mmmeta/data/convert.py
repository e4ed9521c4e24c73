"""Writing a data set of any format as COCO or as maps with a palette.

Both are written to a new folder, completely or not at all, and both functions return
what the new files do not say, one sentence each.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mmmeta.data import masks
from mmmeta.data.folders import link_or_copy
from mmmeta.data.labelme import image_content
from mmmeta.data.maps import read_map
from mmmeta.data.model import IGNORED, DataSet, Item, Object
from mmmeta.data.names import BACKGROUND
from mmmeta.data.picture import colors_of
from mmmeta.data.tree import base, stem
from mmmeta.errors import UserError, one_line

UNREADABLE = ('map-unreadable', 'map-lossy')
OTHER_SIZE = ('size-differs', 'size-turned')
# Faults whose objects or files are not read; those of other kinds are written.
DROPPED = (
    *('annotation-alone', 'box-missing', 'coordinate-range', 'file-unreadable'),
    *('id-missing', 'id-twice', 'label-range', 'line-unreadable', 'map-missing'),
)
OF_MAPS = ('map_size', 'counts')  # what is known of an item of maps


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` at the end.

    Raises:
        UserError: There is something that is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f'{path} exists; expected an empty folder or nothing there')
    target = path.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f'.{target.name}-', dir=target.parent
    ) as temporary:
        built = Path(temporary, 'new')
        built.mkdir()
        yield built
        os.rename(built, target)


def put_image(item: Item, data: DataSet, target: Path) -> bool:
    """Link or copy an item's image, or write the embedded one; False without one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if item.embedded:
        target.write_bytes(image_content(data.root / item.source))
        return True
    if not os.path.isfile(item.path):
        return False
    # A link to a link would be relative.
    link_or_copy(os.path.realpath(item.path), target)
    return True


class Places:
    """New names of images, which are in one folder for each split and unique."""

    def __init__(self, by_stem: bool) -> None:
        self._taken: set[str] = set()
        self._by_stem = by_stem

    def of(self, item: Item) -> str:
        """Return a new name for an item; the old one if that is possible."""
        name = item.name.replace('\\', '/')
        if name.startswith('/') or ':' in name or '..' in name.split('/'):
            name = base(name)
        if item.path.suffix and not name.endswith(item.path.suffix):
            name = base(item.path.name)
        start, end = stem(name), name[len(stem(name)) :]
        number = 1
        while self._key(name) in self._taken:
            number += 1
            name = f'{start}~{number}{end}'
        self._taken.add(self._key(name))
        return name

    def _key(self, name: str) -> str:
        return (stem(name) if self._by_stem else name).casefold()


def _each(items: Iterable[Item], what: str) -> Iterator[Item]:
    yield from tqdm(list(items), what, leave=False, disable=None)


def _said(data: DataSet, fatal: Iterable[str]) -> list[str]:
    """Return what is lost already in reading.

    Args:
        data: The data set.
        fatal: Kinds of faults with which it cannot be converted.

    Raises:
        UserError: It has one of these.
    """
    lost = list(data.lost)
    # Of LabelMe, the mask is the object.
    dropped = (*DROPPED, 'mask-invalid') if data.format == 'labelme' else DROPPED
    for problem in data.problems:
        if problem.kind in fatal:
            raise UserError(f'not converted: {problem.text}')
        if problem.kind in dropped:
            lost.append(f'left out: {problem.text}')
    return lost


def _left_out(count: int, what: str) -> list[str]:
    return [f'{count} {what}'] if count else []


# -- COCO ---------------------------------------------------------------------


def write_coco(data: DataSet, folder: Path) -> list[str]:
    """Write annotations/instances_SPLIT.json, and the images in SPLIT/.

    Ids, names and other keys of COCO are kept, as are flags of other formats. Of maps,
    all pixels of a class in an image become one object with RLE; a first class called
    background is not written.

    Raises:
        UserError: The folder is not empty, or images only have a class.
    """
    if data.task == 'classification':
        raise UserError('class folders have no boxes or masks that COCO could have')
    lost = _said(data, UNREADABLE)
    missing = ignored = 0
    plain = data.task == 'segmentation' and data.classes[0].lower() in BACKGROUND
    first = int(plain)
    ids = data.category_ids or list(range(1, len(data.classes) + 1))
    categories = [
        {**data.category_extra.get(key, {}), 'id': key, 'name': name}
        for key, name in zip(ids, data.classes, strict=True)
    ][first:]
    with new_folder(folder) as new:
        (new / 'annotations').mkdir()
        for split, part in data.splits.items():
            images: list[dict] = []
            rows: list[dict] = []
            places = Places(by_stem=False)
            keys = [item.extra.get('id') for item in part.items]
            keep = None not in keys
            for item in _each(part.items, split):
                name = places.of(item)
                if not put_image(item, data, new / split / name):
                    missing += 1
                    continue
                number = item.extra['id'] if keep else len(images) + 1
                extra = {k: v for k, v in item.extra.items() if k not in OF_MAPS}
                width, height = item.size
                image = {'file_name': name, 'width': width, 'height': height}
                images.append({**extra, 'id': number, **image})
                objects = item.objects
                if item.map is not None:
                    objects, rest = _of_map(item, data, first)
                    ignored += rest
                for thing in objects:
                    rows.append(coco_row(thing, item, number, ids[thing.label]))
            _number(rows)
            content = {
                **part.extra,
                'images': images,
                'annotations': rows,
                'categories': categories,
            }
            file = new / 'annotations' / f'instances_{split}.json'
            file.write_text(json.dumps(content), 'utf-8')
    if plain:
        lost.append(f'class {data.classes[0]!r} is where no other class is')
    lost += _left_out(
        ignored, 'maps have pixels without a class, which COCO cannot say'
    )
    return lost + _left_out(missing, 'images cannot be read and were left out')


def coco_row(thing: Object, item: Item, image: Any, category: Any) -> dict[str, Any]:
    """Return an object as COCO has it.

    Args:
        thing: The object.
        item: Its image.
        image: The image's id.
        category: The class's id.
    """
    row: dict[str, Any] = {
        **thing.extra,
        'image_id': image,
        'category_id': category,
        'bbox': list(thing.box),
        'iscrowd': int(thing.crowd),
    }
    if thing.masked:
        row['segmentation'] = thing.rle or thing.polygons
    if 'area' not in row:
        try:
            row['area'] = masks.area(thing, *item.size[::-1])
        except ValueError:  # a problem of the data set
            row['area'] = thing.box[2] * thing.box[3]
    return row


def _number(rows: list[dict]) -> None:
    """Number annotations unless each has an id of its own."""
    keys = [row.get('id') for row in rows]
    if None in keys or len(set(keys)) < len(keys):
        for number, row in enumerate(rows, 1):
            row['id'] = number


def _of_map(item: Item, data: DataSet, first: int) -> tuple[list[Object], bool]:
    """Return an object for each class of a map, and whether pixels have no class."""
    if item.map is None or data.maps is None:
        return [], False
    try:
        labels = read_map(item.map, data.maps)
    except ValueError as error:
        raise UserError(f'{item.source} cannot be read: {one_line(error)}') from error
    found = []
    for label in np.unique(labels).tolist():
        if first <= label < len(data.classes):
            mask = labels == label
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            left, top = float(xs[0]), float(ys[0])
            box = left, top, float(xs[-1]) + 1 - left, float(ys[-1]) + 1 - top
            found.append(Object(label, box, rle=masks.encode(mask)))
    return found, bool((labels == IGNORED).any())


# -- maps ---------------------------------------------------------------------


def write_png(data: DataSet, folder: Path) -> list[str]:
    """Write images/SPLIT/, annotations/SPLIT/NAME.png and classes.txt.

    The values of the maps are indices of the classes, 255 is ignored, and a palette
    has the colors. Masks of objects are painted over a first class called background,
    small ones over large ones.

    Raises:
        UserError: The folder is not empty, or there are no masks, or more classes than
            values.
    """
    if data.task not in ('segmentation', 'instances'):
        raise UserError(
            'maps need a mask for each object, which this data set does not have'
        )
    objects = data.task == 'instances'
    classes = ['background', *data.classes] if objects else data.classes
    if len(classes) > IGNORED:
        raise UserError(f'{len(classes)} classes; a map can have {IGNORED}')
    colors = [(0, 0, 0), *colors_of(data)] if objects else colors_of(data)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[IGNORED] = 224, 224, 192  # as in Pascal VOC
    lost = _said(data, (*UNREADABLE, *OTHER_SIZE) if objects else UNREADABLE)
    missing = hidden = 0
    with new_folder(folder) as new:
        for split, part in data.splits.items():
            places = Places(by_stem=True)
            for item in _each(part.items, split):
                name = places.of(item)
                image = new / 'images' / split / name
                if not item.width or not put_image(item, data, image):
                    missing += 1
                    continue
                values, covered = _values(item, data)
                hidden += covered
                map_file = new / 'annotations' / split / f'{stem(name)}.png'
                map_file.parent.mkdir(parents=True, exist_ok=True)
                drawn = Image.fromarray(values)
                drawn.putpalette(palette.tobytes())
                drawn.save(map_file, optimize=False)
        text = ''.join(f'{" ".join(name.split())}\n' for name in classes)
        (new / 'classes.txt').write_text(text, 'utf-8')
    if objects:
        lost.append('maps do not tell the objects of a class apart')
        lost += _left_out(hidden, 'images have objects that cover others')
        if any(thing.crowd for item in data.items for thing in item.objects):
            lost.append('crowds have become pixels of their class')
    return lost + _left_out(missing, 'images cannot be read and were left out')


def _values(item: Item, data: DataSet) -> tuple[np.ndarray, bool]:
    """Return an item's map, uint8 (H, W), and whether objects cover others."""
    try:
        if item.map is not None and data.maps is not None:
            return read_map(item.map, data.maps), False
        found = [
            (masks.decode(thing, item.height, item.width), thing.label + 1)
            for thing in item.objects
            if thing.masked
        ]
    except ValueError as error:
        raise UserError(f'{item.source} cannot be read: {one_line(error)}') from error
    values = np.zeros((item.height, item.width), np.uint8)
    covered = False
    for mask, label in sorted(found, key=lambda row: -int(row[0].sum())):
        covered = covered or bool((values[mask] > 0).any())
        values[mask] = label
    return values, covered
