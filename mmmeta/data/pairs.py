"""Pairing images with maps of their classes, by the names of files and folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmmeta.data.tree import Tree, base, folder, split_of, stem, suffix_of
from mmmeta.hosts.images import load_picture

# Files of these kinds may be maps; JPEG changes values, which is a fault.
SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.gif', '.jpg', '.jpeg')
SAMPLES = 5  # maps that are looked at
MAIN, FLAT = 24, 0.6  # main colors, and the share of pixels that they have in a map
_FOLDER = re.compile(
    r'(?:.*[_-])?(?:masks?|annotations?|annots?|anno|labels?|semantic|gt|gtfine|seg'
    r'|ground_?truths?|segmentations?|segmentationclass\w*|targets?|maps?|lbl)'
    r'(?:[_-](?:png|dir|images?|train|val|valid|test))?'
    r'|(?:train|val|test)(?:annot|mask|label)s?'
)
# What a map's name has after the image's; the longest first.
_ENDING = re.compile(
    r'[_-](?:gtFine_labelTrainIds|gtFine_labelIds|labelTrainIds|labelIds'
    r'|segmentation|semantic|label|labels|masks?|annotation|seg|gt|L)$'
)
_OF_IMAGE = re.compile(r'[_-](?:leftImg8bit|image|img|sat)$')
_SKIPPED = re.compile(r'_(?:gtFine_color|gtFine_instanceIds|color|instanceIds)$')


@dataclass
class Pairs:
    """Images and maps of a data set, by paths relative to its root.

    Attributes:
        pairs: Image and map, by split.
        names: What each split is called on disk.
        images: Images without a map.
        maps: Maps without an image.
    """

    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)


def find(tree: Tree) -> Pairs | None:
    """Return the pairs; None if the data set has no maps, or few images have one."""
    maps: dict[tuple[str, str], str] = {}
    images: dict[tuple[str, str], str] = {}
    lists = _listed(tree)
    for name in tree.images:
        top = stem(base(name))
        if _SKIPPED.search(top):
            continue
        is_map = _is_map(name)
        bare = (_ENDING if is_map else _OF_IMAGE).sub('', top)
        if not is_map and suffix_of(name) in SUFFIXES and _ENDING.search(top):
            # x_mask.png beside x.jpg; of an image called so, there is no x.
            without = _ENDING.sub('', top)
            if any(stem(base(n)) == without for n in _beside(tree, name, without)):
                is_map, bare = True, without
        split = lists.get(bare) or split_of(folder(name))[0] or 'train'
        files = maps if is_map else images
        files.setdefault((split, bare), name)
    found = Pairs()
    for key, image in images.items():
        if key in maps:
            found.pairs.setdefault(key[0], []).append((image, maps[key]))
            found.names.setdefault(key[0], split_of(folder(image))[1])
    found.maps = [name for key, name in maps.items() if key not in images]
    folders = {folder(image) for rows in found.pairs.values() for image, _ in rows}
    # Of the images elsewhere, such as samples beside the README, none is expected.
    found.images = [
        name
        for key, name in images.items()
        if key not in maps and folder(name) in folders
    ]
    rows = [row for part in found.pairs.values() for row in part]
    if not rows or 2 * len(rows) < len(maps):
        return None
    some = [tree.root / name for _, name in rows[:: -(-len(rows) // SAMPLES)]]
    shares = [share for path in some if (share := _flatness(path)) is not None]
    return None if shares and max(shares) < FLAT else found


def _flatness(path: Path) -> float | None:
    """Return the share of an image's pixels with one of its few main colors.

    It is large for maps, also for smoothed ones, and small for photographs, whose
    folders may be called `mask`, too, as a class. None if the file cannot be read.
    """
    try:
        picture = load_picture(path)
    except ValueError:
        return None
    if picture.mode not in ('L', 'P', '1'):
        picture = picture.convert('RGB')
    picture.thumbnail((256, 256), Image.Resampling.NEAREST)
    pixels = np.asarray(picture if picture.mode == 'P' else picture.convert('RGB'))
    if pixels.ndim == 3:
        pixels = pixels // 16
        pixels = pixels @ np.array([256, 16, 1])
    counts = np.sort(np.bincount(pixels.ravel()))[::-1]
    return float(counts[:MAIN].sum() / counts.sum())


def _is_map(name: str) -> bool:
    """Whether one of a file's folders is called as those of maps are."""
    if suffix_of(name) not in SUFFIXES:
        return False
    return any(_FOLDER.fullmatch(part.lower()) for part in folder(name).split('/'))


def _beside(tree: Tree, name: str, without: str) -> list[str]:
    place = folder(name)
    return tree.by_stem.get(f'{place}/{without}' if place else without, [])


def _listed(tree: Tree) -> dict[str, str]:
    """Return the split of each name that ImageSets/Segmentation lists (Pascal VOC)."""
    found: dict[str, str] = {}
    for key in ('train', 'val', 'test', 'trainval'):
        for name in tree.having(f'segmentation/{key}.txt'):
            text = (tree.root / name).read_text('utf-8', 'replace')
            for word in text.split():
                found.setdefault(base(word), 'train' if key == 'trainval' else key)
    return found
