"""Reading maps of classes: one channel of values, a palette, or colors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmmeta.data.faults import Faults
from mmmeta.data.images import in_threads
from mmmeta.data.model import IGNORED, Color, DataSet, Item, Maps, Split
from mmmeta.data.names import BACKGROUND, Names, read_names
from mmmeta.data.pairs import Pairs
from mmmeta.data.tree import Tree, folder, in_order
from mmmeta.errors import one_line
from mmmeta.hosts.classes import class_colors
from mmmeta.hosts.images import load_picture

LAYOUT = 'maps: images/train/NAME.jpg and annotations/train/NAME.png, or NAME_mask.png'
MOST = 256  # classes
GRAYS = 64  # values of a map without a list of classes


class Values(NamedTuple):
    """What a map contains.

    Attributes:
        mode: 'gray', 'palette' or 'color'.
        size: Width and height in pixels.
        counts: Number of pixels by value, or by color as 0xRRGGBB.
        palette: The color of each value that occurs, of mode 'palette'.
        error: Why it cannot be read; '' if it can.
        lossy: Whether the error is that its values are no longer those of classes.
    """

    mode: str
    size: tuple[int, int]
    counts: dict[int, int]
    palette: dict[int, int]
    error: str = ''
    lossy: bool = False


def read(tree: Tree, pairs: Pairs) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        pairs: Its images and maps.
    """
    faults = Faults()
    rows = [row for part in pairs.pairs.values() for row in part]
    paths = [tree.root / name for _, name in rows]
    found = dict(in_threads(values_of, paths, 'maps'))
    for name in pairs.images:
        faults.add('map-missing', name)
    for name in pairs.maps:
        faults.add('annotation-alone', name)
    names = read_names(tree, faults)
    if not names.names:
        found = {path: _without_smoothed(values) for path, values in found.items()}
    good = [values for values in found.values() if not values.error]
    for path, values in found.items():
        if values.error:
            kind = 'map-lossy' if values.lossy else 'map-unreadable'
            faults.add(kind, tree.relative(path), '', values.error)
    maps, classes = _meaning(good, names, faults)
    for path, values in found.items():
        _check_values(tree.relative(path), values, maps, len(classes), faults)
    splits = {}
    for split, part in pairs.pairs.items():
        images = os.path.commonpath([folder(image) or '.' for image, _ in part])
        places = os.path.commonpath([folder(name) or '.' for _, name in part])
        items = []
        for image, name in part:
            item = Item(tree.root / image, os.path.relpath(image, images))
            item.map, item.source = tree.root / name, name
            item.extra = {'map_size': found[item.map].size}
            item.extra['counts'] = _by_class(found[item.map], maps)
            items.append(item)
        start = tree.root / images
        splits[split] = Split(items, start, tree.root / places, pairs.names[split])
    splits = in_order(splits)
    return DataSet(tree.root, 'png', 'segmentation', classes, splits, faults, maps=maps)


def _without_smoothed(values: Values) -> Values:
    """Return an error instead of more grays than classes without names have."""
    if values.mode != 'gray' or len(values.counts) <= GRAYS:
        return values
    return _lossy(values.size, f'{len(values.counts)} values')


def _lossy(size: tuple[int, int], why: str) -> Values:
    return Values('', size, {}, {}, why, lossy=True)


def values_of(path: Path) -> Values:
    """Return what a map contains; it does not raise."""
    try:
        picture = load_picture(path)
    except ValueError as error:
        return Values('', (0, 0), {}, {}, one_line(error))
    size = picture.size
    if picture.format in ('JPEG', 'MPO'):
        return _lossy(size, 'JPEG')
    if picture.mode in ('L', 'P', '1'):
        histogram = picture.histogram()
        counts = {value: n for value, n in enumerate(histogram) if n}
        palette = {}
        if picture.mode == 'P':
            colors = picture.getpalette('RGB') or []
            palette = {
                value: _pack(colors[3 * value : 3 * value + 3])
                for value in counts
                if 3 * value + 3 <= len(colors)
            }
        if picture.mode == '1':
            counts = {min(value, 1): n for value, n in counts.items()}
        return Values('palette' if palette else 'gray', size, counts, palette)
    if picture.mode.startswith(('I', 'F')):
        found, numbers = np.unique(np.asarray(picture), return_counts=True)
        if len(found) > MOST or not np.array_equal(found, found.astype(int)):
            return _lossy(size, f'more than {MOST}')
        pairs = zip(found.astype(int).tolist(), numbers.tolist(), strict=True)
        return Values('gray', size, dict(pairs), {})
    found_colors = picture.convert('RGB').getcolors(MOST)
    if found_colors is None:
        return _lossy(size, f'more than {MOST}')
    counts = {_pack(color): n for n, color in found_colors}  # type: ignore[arg-type]
    return Values('color', size, counts, {})


def read_map(path: Path, maps: Maps) -> np.ndarray:
    """Return a map's classes, uint8 (H, W), 255 where there is none.

    Raises:
        ValueError: It cannot be read.
    """
    picture = load_picture(path)
    if maps.kind == 'color':
        pixels = np.asarray(picture.convert('RGB')).astype(np.int64)
        values = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        out = np.full(values.shape, IGNORED, np.uint8)
        for value, label in maps.classes.items():
            out[values == value] = label
        return out
    values = np.asarray(picture).astype(np.int64)
    if values.ndim == 3:  # equal channels
        values = values[..., 0]
    table = np.full(
        max(values.max(initial=0), max(maps.classes, default=0)) + 1, IGNORED
    )
    for value, label in maps.classes.items():
        table[value] = label
    return table[values].astype(np.uint8)


def _pack(color: Iterable[int]) -> int:
    red, green, blue = tuple(color)[:3]
    return red << 16 | green << 8 | blue


def _unpack(color: int) -> Color:
    return color >> 16, color >> 8 & 255, color & 255


# -- what values mean ---------------------------------------------------------


def _meaning(
    found: list[Values], names: Names, faults: Faults
) -> tuple[Maps, list[str]]:
    """Return how maps mean classes, and the classes."""
    modes = {values.mode for values in found}
    counts: Counter[int] = Counter()
    for values in found:
        for value in values.counts:
            counts[value] += 1
    grays = all(len(set(_unpack(value))) == 1 for value in counts)
    if modes == {'color'} and grays:  # three equal channels
        faults.add('map-colors', '', '', 'three equal channels')
        return _of_values({value & 255 for value in counts}, {}, names, faults, False)
    palette, differs = _palette(found)
    if 'color' in modes or (differs and modes == {'palette'}):
        colors = _colors(found)
        faults.add('map-colors', '', '', f'{len(colors)} colors')
        return _of_colors(colors, names, faults)
    return _of_values(set(counts), palette, names, faults, True)


def _palette(found: list[Values]) -> tuple[dict[int, int], bool]:
    """Return the color of each value, and whether maps differ in it."""
    palette: dict[int, int] = {}
    differs = False
    for values in found:
        for value, color in values.palette.items():
            differs = differs or palette.setdefault(value, color) != color
    return palette, differs


def _colors(found: list[Values]) -> list[int]:
    """Return all colors of maps, black first."""
    colors: set[int] = set()
    for values in found:
        colors |= set(values.palette.values() or values.counts)
    return sorted(colors)


def _of_colors(
    colors: list[int], names: Names, faults: Faults
) -> tuple[Maps, list[str]]:
    if names.colors:
        listed = [_pack(color) for color in names.colors]
        classes = {color: i for i, color in reversed(list(enumerate(listed)))}
        return Maps('color', classes, names.colors, False), names.names
    if len(colors) > MOST:
        faults.add('map-lossy', '', '', f'{len(colors)} colors in all')
        colors = colors[:MOST]
    known = names.names if len(names.names) == len(colors) else None
    titles = known or [f'color_{color:06x}' for color in colors]
    if not known and colors[:1] == [0]:
        titles[0] = 'background'
    classes = {color: i for i, color in enumerate(colors)}
    return Maps('color', classes, [_unpack(c) for c in colors], False), titles


def _of_values(
    values: set[int],
    palette: dict[int, int],
    names: Names,
    faults: Faults,
    direct: bool,
) -> tuple[Maps, list[str]]:
    """Return the meaning of maps of one channel."""
    used = sorted(values - {IGNORED})
    given = names.names
    if names.colors and palette:  # the list is by color
        by_color = {_pack(c): n for c, n in zip(names.colors, given, strict=True)}
        if all(palette.get(value) in by_color for value in used):
            top = max(used, default=-1) + 1
            given = [by_color.get(palette.get(i, -1), str(i)) for i in range(top)]
    if values <= {0, IGNORED} and IGNORED in values and len(given) in (0, 1, 2):
        faults.add('map-binary', '')
        if len(given) < 2:
            given = ['background', *(given or ['foreground'])]
        colors = [(0, 0, 0), (255, 255, 255)]
        return Maps('binary', {0: 0, IGNORED: 1}, colors, False), given
    highest = max(used, default=-1)
    if names.values and len(names.values) == len(given):
        if names.values == list(range(1, len(given) + 1)):  # ADE20K's
            return _indices(given, palette, direct, 1)
        if names.values != list(range(len(given))):
            faults.add('map-gaps', names.file, '', f'values {_some(names.values)}')
            classes = {value: i for i, value in enumerate(names.values)}
            colors = [_unpack(palette.get(v, 0x10101 * (v % 256))) for v in classes]
            return Maps('index', classes, colors, False), given
    elif given:
        offset = int(highest == len(given) and given[0].lower() not in BACKGROUND)
        return _indices(given, palette, direct, offset)
    if given:
        return _indices(given, palette, direct, 0)
    if len(used) > IGNORED:
        faults.add('map-lossy', '', '', f'{len(used)} values in all')
        used = used[:IGNORED]
    if 2 * len(used) < highest + 1:
        faults.add('map-gaps', '', '', f'values {_some(used)}')
        classes = {value: i for i, value in enumerate(used)}
        colors = [_unpack(palette.get(v, 0x10101 * (v % 256))) for v in used]
        return Maps('index', classes, colors, False), [str(value) for value in used]
    return _indices([str(i) for i in range(highest + 1)], palette, direct, 0)


def _indices(
    names: list[str], palette: dict[int, int], direct: bool, offset: int
) -> tuple[Maps, list[str]]:
    """Return maps whose values are indices, plus 1 if `offset` is 1."""
    known = [palette.get(i + offset) for i in range(len(names))]
    colors = class_colors(
        [None if c is None else _unpack(c) for c in known], len(names)
    )
    classes = {i + offset: i for i in range(len(names))}
    return Maps('index', classes, list(colors), direct, bool(offset)), names


def _some(values: Iterable[int]) -> str:
    texts = [str(value) for value in values]
    return ', '.join(texts[:6]) + (', ...' if len(texts) > 6 else '')


def _by_class(values: Values, maps: Maps) -> dict[int, int]:
    """Return the number of pixels of each class of a map."""
    found: Counter[int] = Counter()
    for value, count in _as_keys(values, maps).items():
        if value in maps.classes:
            found[maps.classes[value]] += count
    return dict(found)


def _as_keys(values: Values, maps: Maps) -> dict[int, int]:
    """Return the numbers of pixels by the keys of `Maps.classes`."""
    if maps.kind == 'color' and values.palette:
        colors: Counter[int] = Counter()
        for value, count in values.counts.items():
            colors[values.palette.get(value, -1)] += count
        return dict(colors)
    if maps.kind != 'color' and values.mode == 'color':
        return {value & 255: count for value, count in values.counts.items()}
    return values.counts


def _check_values(
    name: str, values: Values, maps: Maps, count: int, faults: Faults
) -> None:
    if values.error or maps.kind == 'binary':
        return
    ignored = {IGNORED} | ({0} if maps.zero_ignored else set())
    if maps.kind == 'color':
        ignored = set()
    for value in _as_keys(values, maps):
        if value in maps.classes or value in ignored:
            continue
        if maps.kind == 'color':
            detail = f'color #{value:06x} is not in the list of classes'
        else:
            detail = f'value {value}, there are {count} classes'
        faults.add('label-range', name, '', detail)
        return
