"""Writes the shapes data set in formats that users' data sets have.

All have the same images, classes and splits. What a format cannot express is lost:

===========  ====================================================================
coco         nothing is lost
yolo         boxes, as fractions with 8 digits; no masks
yolo-seg     outlines; several, and holes, are joined by lines of no width
voc          boxes, in whole pixels counted from 1; no masks
labelme      outlines; a mask with holes is a picture. Boxes are those of the outlines
png          maps, 0 is the background; objects of a class are not told apart
folders      the class of the largest shape
===========  ====================================================================
"""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
from PIL import Image

from mmmeta.data import DataSet, Item, Object, read_data
from mmmeta.data.convert import new_folder, write_coco
from mmmeta.data.folders import link_or_copy
from mmmeta.data.masks import decode
from mmmeta.datasets._scene import CLASSES
from mmmeta.datasets.shapes import BACKGROUND, make_shapes


def write_shapes(root: str | os.PathLike[str], name: str, **params: Any) -> Path:
    """Write the shapes data set in a format.

    Args:
        root: The new folder.
        name: A key of `FORMATS`.
        params: Those of `make_shapes`.

    Returns:
        ``root`` as a path.

    Raises:
        UserError: The folder is not empty.
        ValueError: A number is not in its range.
    """
    target = Path(root)
    with tempfile.TemporaryDirectory(prefix='.shapes-', dir=_parent(target)) as place:
        shapes = make_shapes(Path(place, 'shapes'), **params)
        with new_folder(target) as new:
            FORMATS[name](shapes, new)
    return target


def _parent(target: Path) -> Path:
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, 'utf-8')


def _coco(shapes: Path, new: Path) -> None:
    write_coco(read_data(shapes), new)


# -- YOLO ---------------------------------------------------------------------


def _boxes(item: Item, thing: Object) -> list[float]:
    x, y, w, h = thing.box
    return [
        *((x + w / 2) / item.width, (y + h / 2) / item.height),
        *(w / item.width, h / item.height),
    ]


def _outline(item: Item, thing: Object) -> list[float]:
    """Return an object's only outline, as fractions of the image."""
    parts = thing.polygons
    if parts is None:
        mask = decode(thing, item.height, item.width).astype(np.uint8)
        # Twice as large, so that the outline is around pixels, not through centers.
        large = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        found = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        parts = [((c.reshape(-1, 2) + 0.5) / 2).ravel().tolist() for c in found]
    points = _joined([np.reshape(part, (-1, 2)) for part in parts])
    return (points / (item.width, item.height)).ravel().tolist()


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return outlines as one: a line, which has no area, leads to each and back."""
    whole = parts[0]
    for part in parts[1:]:
        distances = ((whole[:, None] - part[None]) ** 2).sum(-1)
        i, j = np.unravel_index(np.argmin(distances), distances.shape)
        ring = np.concatenate([part[j:], part[: j + 1]])
        whole = np.concatenate([whole[: i + 1], ring, whole[i:]])
    return whole


def _yolo(values: Callable[[Item, Object], list[float]]) -> Callable:
    def write(shapes: Path, new: Path) -> None:
        data = read_data(shapes)
        for split, part in data.splits.items():
            for item in part.items:
                link_or_copy(item.path, new / 'images' / split / item.name)
                lines = [
                    ' '.join([str(o.label), *(f'{v:.8g}' for v in values(item, o))])
                    for o in item.objects
                ]
                label = new / 'labels' / split / f'{Path(item.name).stem}.txt'
                _write(label, ''.join(f'{line}\n' for line in lines))
        names = ''.join(f'  {i}: {name}\n' for i, name in enumerate(CLASSES))
        text = f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}'
        _write(new / 'data.yaml', text)

    return write


# -- Pascal VOC and LabelMe ---------------------------------------------------


def _voc(shapes: Path, new: Path) -> None:
    data = read_data(shapes)
    for split, part in data.splits.items():
        names = []
        for item in part.items:
            name = f'{split}_{Path(item.name).stem}'
            names.append(f'{name}\n')
            link_or_copy(item.path, new / 'JPEGImages' / f'{name}.jpg')
            _write(new / 'Annotations' / f'{name}.xml', _xml(data, item, name))
        _write(new / 'ImageSets' / 'Main' / f'{split}.txt', ''.join(names))


def _xml(data: DataSet, item: Item, name: str) -> str:
    lines = [
        '<annotation>',
        f'  <folder>JPEGImages</folder><filename>{name}.jpg</filename>',
        f'  <size><width>{item.width}</width><height>{item.height}</height>'
        '<depth>3</depth></size>',
    ]
    for thing in item.objects:
        x, y, w, h = (round(v) for v in thing.box)
        lines.append(
            f'  <object><name>{escape(data.classes[thing.label])}</name>'
            '<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>'
            f'<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>'
            f'<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
        )
    return '\n'.join([*lines, '</annotation>', ''])


def _labelme(shapes: Path, new: Path) -> None:
    data = read_data(shapes)
    for split, part in data.splits.items():
        for item in part.items:
            link_or_copy(item.path, new / split / item.name)
            found = []
            for number, thing in enumerate(item.objects, 1):
                found += _shapes(data, item, thing, number)
            content: dict[str, Any] = {
                'version': '5.5.0',
                'flags': {},
                'shapes': found,
                'imagePath': item.name,
                'imageData': None,
                'imageHeight': item.height,
                'imageWidth': item.width,
            }
            file = new / split / f'{Path(item.name).stem}.json'
            _write(file, json.dumps(content, indent=1))


def _shapes(data: DataSet, item: Item, thing: Object, number: int) -> list[dict]:
    """Return an object's shapes; several belong to one group."""
    common = {'label': data.classes[thing.label], 'flags': {}}
    if thing.polygons is None:
        x, y, w, h = (int(v) for v in thing.box)
        mask = decode(thing, item.height, item.width)[y : y + h, x : x + w]
        file = io.BytesIO()
        Image.fromarray(mask).save(file, 'png')
        row = {
            'points': [[x, y], [x + w - 1, y + h - 1]],
            'group_id': None,
            'shape_type': 'mask',
            'mask': base64.b64encode(file.getvalue()).decode(),
        }
        return [{**common, **row}]
    group = number if len(thing.polygons) > 1 else None
    return [
        {
            **common,
            'points': np.reshape(outline, (-1, 2)).tolist(),
            'group_id': group,
            'shape_type': 'polygon',
        }
        for outline in thing.polygons
    ]


# -- maps and folders ---------------------------------------------------------


def _png(shapes: Path, new: Path) -> None:
    for file in sorted(shapes.glob('images/*/*.jpg')):
        link_or_copy(file, new / file.relative_to(shapes))
    palette = np.zeros((256, 3), np.uint8)
    palette[1 : len(CLASSES) + 1] = np.random.RandomState(42).randint(
        0, 256, (len(CLASSES), 3)
    )
    for file in sorted(shapes.glob('semantic/*/*.png')):
        with Image.open(file) as picture:
            values = np.array(picture)
        values[values == BACKGROUND] = 0  # a class's value stays its index plus 1
        drawn = Image.fromarray(values)
        drawn.putpalette(palette.tobytes())
        target = new / 'annotations' / file.relative_to(shapes / 'semantic')
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target)
    _write(new / 'classes.txt', '\n'.join(['background', *CLASSES, '']))


def _folders(shapes: Path, new: Path) -> None:
    for split in ('train', 'val'):
        for name in CLASSES:  # empty ones, too
            (new / split / name).mkdir(parents=True)
    for file in sorted(shapes.glob('classes/*/*/*.jpg')):
        link_or_copy(file, new / file.relative_to(shapes / 'classes'))


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    'coco': _coco,
    'yolo': _yolo(_boxes),
    'yolo-seg': _yolo(_outline),
    'voc': _voc,
    'labelme': _labelme,
    'png': _png,
    'folders': _folders,
}
