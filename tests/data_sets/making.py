"""Tiny data sets, correct ones, for tests to break."""

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 30)  # width and height of all images
NAMES = ('cat', 'dog')
# Label, and box x, y, width, height in pixels.
BOXES = ((0, (4, 6, 20, 10)), (1, (0, 0, 40, 30)))
OUTLINE = [4, 6, 24, 6, 24, 16, 4, 16]


def image(path: Path, size: tuple[int, int] = SIZE, **options) -> Path:
    """Write noise that differs between paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(zlib.crc32(str(path).encode()))
    pixels = rng.randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def coco_file(path: Path, names: list[str], **changes) -> dict:
    """Write a COCO file about images; `changes` replace top-level keys."""
    images = [
        dict(id=i, file_name=name, width=SIZE[0], height=SIZE[1])
        for i, name in enumerate(names, 1)
    ]
    annotations = [
        dict(image_id=i['id'], category_id=label + 1, bbox=list(box), iscrowd=0)
        for i in images
        for label, box in BOXES
    ]
    for number, row in enumerate(annotations, 1):
        row.update(id=number, area=row['bbox'][2] * row['bbox'][3])
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    content.update(changes)
    text(path, json.dumps(content))
    return content


def coco(root: Path) -> Path:
    for split in ('train', 'val'):
        names = [image(root / split / f'{n}.jpg').name for n in range(2)]
        coco_file(root / f'annotations/instances_{split}.json', names)
    return root


def yolo(root: Path, polygons: bool = False) -> Path:
    for split in ('train', 'val'):
        for number in range(2):
            image(root / f'images/{split}/{number}.jpg')
            lines = []
            for label, (x, y, w, h) in BOXES:
                values = (x + w / 2) / 40, (y + h / 2) / 30, w / 40, h / 30
                if polygons:
                    corners = (x, y), (x + w, y), (x + w, y + h), (x, y + h)
                    values = tuple(v for a, b in corners for v in (a / 40, b / 30))
                lines.append(f'{label} ' + ' '.join(f'{v:.6f}' for v in values))
            text(root / f'labels/{split}/{number}.txt', '\n'.join(lines))
    names = json.dumps(NAMES)
    text(
        root / 'data.yaml',
        f'path: .\ntrain: images/train\nval: images/val\nnames: {names}\n',
    )
    return root


def xml(boxes=BOXES, size=SIZE, first=1, more='') -> str:
    """Return a VOC file's text, whose first pixel has the number `first`."""
    objects = ''.join(
        f'<object><name>{NAMES[label]}</name>{more}<bndbox><xmin>{x + first}</xmin>'
        f'<ymin>{y + first}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>'
        '</object>'
        for label, (x, y, w, h) in boxes
    )
    sides = f'<width>{size[0]}</width><height>{size[1]}</height>'
    return f'<annotation><size>{sides}</size>{objects}</annotation>'


def voc(root: Path) -> Path:
    for split in ('train', 'val'):
        names = [f'{split}{number}' for number in range(2)]
        for name in names:
            image(root / f'JPEGImages/{name}.jpg')
            text(root / f'Annotations/{name}.xml', xml())
        text(root / f'ImageSets/Main/{split}.txt', '\n'.join(names))
    return root


def shape(label: str, kind: str, points: list, **more) -> dict:
    return dict(label=label, shape_type=kind, points=points, flags={}, **more)


def labelme_file(path: Path, shapes: list[dict], **changes) -> None:
    content = dict(shapes=shapes, imagePath=f'{path.stem}.jpg', imageData=None)
    content.update(imageWidth=SIZE[0], imageHeight=SIZE[1], **changes)
    text(path, json.dumps(content))


def labelme(root: Path) -> Path:
    points = np.reshape(OUTLINE, (-1, 2)).tolist()
    for number in range(2):
        image(root / f'{number}.jpg')
        shapes = [
            shape('cat', 'rectangle', [points[2], points[0]]),
            shape('dog', 'rectangle', [[0, 0], [40, 30]]),
        ]
        labelme_file(root / f'{number}.json', shapes)
    return root


def a_map(path: Path, values: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(palette)
    picture.save(path)
    return path


def some_values(*values: int) -> np.ndarray:
    """Return a map of stripes, uint8 (H, W)."""
    columns = np.array(values, np.uint8)[np.arange(SIZE[0]) % len(values)]
    return np.tile(columns, (SIZE[1], 1))


def png(root: Path, values: np.ndarray | None = None, **options) -> Path:
    values = some_values(0, 1, 2) if values is None else values
    for split in ('train', 'val'):
        for number in range(2):
            image(root / f'images/{split}/{number}.jpg')
            a_map(root / f'annotations/{split}/{number}.png', values, **options)
    return root


def folders(root: Path) -> Path:
    for split in ('train', 'val'):
        for name in NAMES:
            for number in range(2):
                image(root / split / name / f'{number}.jpg')
    return root


ALL = dict(coco=coco, yolo=yolo, voc=voc, labelme=labelme, png=png, folders=folders)
