"""A picture of a few annotated images."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageDraw

from mmmeta.data import masks
from mmmeta.data.maps import read_map
from mmmeta.data.model import IGNORED, Color, DataSet, Item, Object
from mmmeta.errors import printable
from mmmeta.hosts.classes import class_colors
from mmmeta.hosts.images import upright
from mmmeta.runtime.drawing import draw_boxes, mixed, write

COUNT, COLUMNS = 8, 4
TILE = (480, 400)  # pixels, of which the last rows have the file's name
LINE = 24
NAMED = 6  # classes of a map
FEW = 30  # objects; of images with more, only the largest have names


def colors_of(data: DataSet) -> list[Color]:
    """Return the color of each class, RGB."""
    given = list(data.maps.colors) if data.maps else []
    return list(class_colors(given, len(data.classes)))


def picture(data: DataSet) -> Image.Image | None:
    """Return a picture of eight annotated images; None if none can be read.

    The images are spread evenly over the first split.
    """
    colors = colors_of(data)
    tiles: list[Image.Image] = []
    for item in _spread(data):
        try:
            tiles.append(_tile(data, item, colors))
        except (ValueError, OSError):  # a problem of the data set, which says so
            continue
        if len(tiles) == COUNT:
            break
    if not tiles:
        return None
    rows = -(-len(tiles) // COLUMNS)
    size = TILE[0] * min(COLUMNS, len(tiles)), TILE[1] * rows
    whole = Image.new('RGB', size, 'white')
    for i, tile in enumerate(tiles):
        whole.paste(tile, (i % COLUMNS * TILE[0], i // COLUMNS * TILE[1]))
    return whole


def _spread(data: DataSet) -> list[Item]:
    """Return items of the first split, evenly spread ones first, empty ones last."""
    for split in data.splits.values():
        items = [item for item in split.items if os.path.isfile(item.path)]
        full = [i for i in items if i.objects or i.map or i.label is not None]
        if full:
            step = max(1, len(full) // COUNT)
            return full[::step] + [i for n, i in enumerate(full) if n % step]
    return []


def _tile(data: DataSet, item: Item, colors: list[Color]) -> Image.Image:
    image = upright(item.path)
    room = TILE[0] - 8, TILE[1] - LINE - 8
    scale = min(room[0] / image.width, room[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = np.asarray(image.resize(size))
    drawn = Image.fromarray(_draw(data, item, small, scale, colors))
    tile = Image.new('RGB', TILE, 'white')
    tile.paste(drawn, (4, 4))
    text = f'{item.name}: {_caption(data, item)}'
    room_for = TILE[0] // 7
    text = text if len(text) <= room_for else f'{text[: room_for - 3]}...'
    place = 4, TILE[1] - LINE + 2
    write(ImageDraw.Draw(tile), place, printable(text), (255, 255, 255), tile)
    return tile


def _draw(
    data: DataSet, item: Item, image: np.ndarray, scale: float, colors: list[Color]
) -> np.ndarray:
    height, width = image.shape[:2]
    if item.map is not None and data.maps is not None:
        labels = Image.fromarray(read_map(item.map, data.maps))
        values = np.asarray(labels.resize((width, height), Image.Resampling.NEAREST))
        table = np.zeros((256, 3), np.uint8)
        table[: len(colors)] = colors[:256]
        there = (values != IGNORED)[..., None]
        image = np.where(there, mixed(image, table[values]), image)
        return _name_regions(image, values, data.classes, colors)
    order = sorted(item.objects, key=lambda o: -o.box[2] * o.box[3])
    found = [_mask(item, thing, (width, height)) for thing in order]
    boxes, texts = [], []
    for i, thing in enumerate(order):
        x, y, w, h = (v * scale for v in thing.box)
        boxes.append((x, y, x + w, y + h))
        name = data.classes[thing.label]
        texts.append((f'{name} (crowd)' if thing.crowd else name) if i < FEW else '')
    picked = [colors[thing.label] for thing in order]
    return draw_boxes(image, boxes, picked, texts, found)


def _mask(item: Item, thing: Object, size: tuple[int, int]) -> np.ndarray | None:
    """Return an object's mask in a size, width and height; None if it has none."""
    if not thing.masked:
        return None
    try:
        mask = masks.decode(thing, item.height, item.width)
    except ValueError:  # a problem of the data set, which says so
        return None
    return np.asarray(Image.fromarray(mask).resize(size))


def _name_regions(
    image: np.ndarray, labels: np.ndarray, classes: list[str], colors: list[Color]
) -> np.ndarray:
    """Return an image with the names of the largest classes of its map."""
    picture = Image.fromarray(image)
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    for label in np.argsort(-counts, kind='stable')[:NAMED].tolist():
        ys, xs = np.nonzero(labels == label)
        if len(ys):
            # The pixel of the class that is the nearest to its center.
            near = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
            place = float(xs[near]), float(ys[near])
            text = printable(classes[label].partition(';')[0])
            write(ImageDraw.Draw(picture), place, text, colors[label], picture)
    return np.asarray(picture)


def _caption(data: DataSet, item: Item) -> str:
    if item.label is not None:
        return data.classes[item.label]
    if item.map is not None:
        counts = item.extra.get('counts', {})
        names = [data.classes[i] for i in sorted(counts, key=lambda i: -counts[i])]
        return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
    return f'{len(item.objects)} objects'
