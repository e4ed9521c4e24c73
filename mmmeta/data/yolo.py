"""Reading YOLO's text files of boxes and polygons, with data.yaml or without."""

from __future__ import annotations

import math
import os
import re
from typing import Any

from mmmeta.data.faults import WARNING, Faults
from mmmeta.data.images import inspect_all
from mmmeta.data.masks import bounds
from mmmeta.data.model import Box, DataSet, Item, Object, Split, task_of
from mmmeta.data.names import read_list
from mmmeta.data.text import read_text, read_yaml, sniff
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
    'YOLO: data.yaml with "names", "train" and "val"; images/train/NAME.jpg and '
    'labels/train/NAME.txt'
)
KEYS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}
# Text files that are not labels.
_OTHER = re.compile(
    r'(classes|labels|names|obj|readme.*|license.*|notes|requirements|labelmap)\.txt$',
    re.I,
)
_NUMBERS = re.compile(r'\s*(-?[\d.]+(e-?\d+)?\s+){4,}', re.I)
DIGITS = 1e-6  # of a fraction; tools write 6 digits or more
TOLERANCE = 1e-3  # tools round, so that a box may end a little outside of the image


def find(tree: Tree) -> tuple[str, list[str]]:
    """Return the data.yaml and the label files; both are empty of other formats."""
    configs = [
        name
        for name in tree.having('.yaml', '.yml')
        if re.search(r'^\W*(names|nc)\W*:', sniff(tree, name), re.M)
        and re.search(r'^\W*(train|val|path)\W*:', sniff(tree, name), re.M)
    ]
    labels = [name for name in tree.having('.txt') if not _OTHER.search(base(name))]
    if not configs:
        # Without data.yaml the beginnings of the files tell; empty ones do not.
        some = [sniff(tree, name, 256) for name in labels[:1000]]
        some = [text for text in some if text.strip()]
        if not some or 2 * sum(bool(_NUMBERS.match(text)) for text in some) < len(some):
            return '', []
    return min(configs, key=len, default=''), labels


def read(tree: Tree, config: str, labels: list[str]) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        config: The data.yaml; '' if there is none.
        labels: The label files.
    """
    faults = Faults()
    content = read_yaml(tree, config, faults) if config else {}
    if not isinstance(content, dict):
        if content is not None:
            faults.add('file-unreadable', config, '', 'expected keys and values')
        content = {}
    content = {k: v for k, v in content.items() if v not in ('', '~', 'null')}
    classes = _classes(tree, config, content, faults)
    images, sources = _images(tree, config, content, faults)
    keypoints = 'kpt_shape' in content
    facts = inspect_all(tree.root / name for names in images.values() for name in names)
    splits, used = {}, set()
    reader = _Labels(tree, faults, len(classes), keypoints)
    for split, names in images.items():
        start = sources[split] or common_folder(names)
        items = []
        for name in names:
            path = tree.root / name
            label = label_file(name)
            item = Item(path, os.path.relpath(name, start or '.'), *facts[path][:2])
            if label in tree.known or os.path.isfile(tree.root / label):
                used.add(label)
                item.source = label
                item.objects = reader.read(label, item)
            items.append(item)
        where = folder(label_file(f'{start}/x.jpg'))
        splits[split] = Split(items, tree.root / start, tree.root / where, split)
        if not items:
            faults.add('split-empty', config, split)
    _unused(tree, labels, used, images, faults)
    items = [item for split in splits.values() for item in split.items]
    if not classes:
        count = 1 + max((o.label for item in items for o in item.objects), default=-1)
        classes = [str(i) for i in range(count)]
    lost = []
    if reader.keypoints:
        lost.append(f'keypoints of {reader.keypoints} objects are not read')
    task = task_of(items, faults)
    return DataSet(tree.root, 'yolo', task, classes, in_order(splits), faults, lost)


def label_file(image: str) -> str:
    """Return the label file of an image: `images` becomes `labels`, as in Ultralytics.

    An image in no folder of this name has its labels beside it.
    """
    head, slash, tail = f'/{image}'.rpartition('/images/')
    moved = f'{head}/labels/{tail}'[1:] if slash else image
    return f'{stem(moved)}.txt'


# -- data.yaml ----------------------------------------------------------------


def _classes(tree: Tree, config: str, content: dict, faults: Faults) -> list[str]:
    names = content.get('names')
    if isinstance(names, dict):
        keys = {int(k): str(v) for k, v in names.items() if str(k).isdigit()}
        gaps = set(range(max(keys, default=-1) + 1)) - set(keys)
        if gaps:
            faults.add('class-count', config, 'names', f'no name for {min(gaps)}')
        classes = [keys.get(i, str(i)) for i in range(max(keys, default=-1) + 1)]
    elif isinstance(names, list):
        classes = [str(name) for name in names]
    elif isinstance(names, str):  # the path of a list
        classes = read_list(tree, names, faults) if names in tree.known else [names]
    else:
        lists = [n for n in tree.files if base(n) in ('classes.txt', 'obj.names')]
        classes = read_list(tree, lists[0], faults) if lists else []
    text = str(content.get('nc'))
    count = int(text) if text.isdigit() else 0
    if count and classes and count != len(classes):
        detail = f'nc is {count}, names has {len(classes)}'
        faults.add('class-count', config, 'nc', detail)
    return classes or [str(i) for i in range(count)]


def _images(
    tree: Tree, config: str, content: dict, faults: Faults
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the images by split, and the folder of each split if it has one."""
    images: dict[str, list[str]] = {}
    starts: dict[str, str] = {}
    for key, split in KEYS.items():
        value = content.get(key)
        if not value or split in images:
            continue
        found: list[str] = []
        paths = value if isinstance(value, list) else [value]
        for text in map(str, paths):
            place = _resolve(tree, config, content.get('path'), text)
            if place is None:
                # Roboflow names a test split even if there is none.
                severity = WARNING if split == 'test' else ''
                faults.add('file-missing', config, key, text, severity)
            elif os.path.isfile(tree.root / place):
                found += _listed(tree, place, faults)
            else:
                found += _inside(tree, place)
                starts[split] = place
        if len(paths) > 1:
            starts.pop(split, None)
        images[split] = list(dict.fromkeys(found))
    missing = [split for split in images if not images[split]]
    for split in missing:  # named, but without a folder: said above
        if split not in starts:
            del images[split]
    if not images:  # no data.yaml, or none that names existing folders
        for name in tree.images:
            images.setdefault(split_of(folder(name))[0] or 'train', []).append(name)
    return images, {split: starts.get(split, '') for split in images}


def _resolve(tree: Tree, config: str, start: Any, text: str) -> str | None:
    """Return a path of data.yaml relative to the root, None if there is nothing.

    It is relative to `path`, which is relative to data.yaml; if that does not exist,
    since the data set was moved, to data.yaml. Roboflow's `../train/images` means
    `train/images`.
    """
    here = tree.root / folder(config)
    text = text.strip().replace('\\', '/')
    bases = [here / str(start), here] if start else [here]
    bare = re.sub(r'^(\.\./)+', '', text)
    for path in [b / t for t in (text, bare) for b in bases]:
        if os.path.exists(path):
            return os.path.relpath(path, tree.root)
    return None


def _inside(tree: Tree, place: str) -> list[str]:
    start = '' if place == '.' else f'{place}/'
    if not place.startswith('..'):
        return [name for name in tree.images if name.startswith(start)]
    inner = Tree((tree.root / place).resolve())
    return [f'{place}/{name}' for name in inner.images]


def _listed(tree: Tree, place: str, faults: Faults) -> list[str]:
    """Return the images that a text file lists, relative to it, one in each line."""
    found = []
    lines = read_text(tree, place, faults).splitlines()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        for start in (tree.root / folder(place), tree.root):
            if os.path.isfile(start / line):
                found.append(os.path.relpath(start / line, tree.root))
                break
        else:
            faults.add('image-missing', place, f'line {number}', line)
    return found


def _unused(
    tree: Tree,
    labels: list[str],
    used: set[str],
    images: dict[str, list[str]],
    faults: Faults,
) -> None:
    """Record label files without an image, and images that share a label file."""
    folders = {folder(label_file(name)) for names in images.values() for name in names}
    for name in labels:
        if name not in used and folder(name) in folders:
            faults.add('annotation-alone', name)
    seen: dict[str, str] = {}
    for name in (name for names in images.values() for name in names):
        other = seen.setdefault(label_file(name), name)
        if other != name:
            faults.add('image-stems', name, '', base(other))


# -- labels -------------------------------------------------------------------


class _Labels:
    """Reads label files.

    Args:
        tree: Has them.
        faults: Gets what is wrong.
        count: The number of classes; 0 if it is unknown.
        pose: Whether there are keypoints after the box.
    """

    def __init__(self, tree: Tree, faults: Faults, count: int, pose: bool) -> None:
        self.tree, self.faults, self.count, self.pose = tree, faults, count, pose
        self.keypoints = 0

    def read(self, name: str, item: Item) -> list[Object]:
        """Return the objects of a file, in pixels of the image."""
        try:
            text = read_text(self.tree, name, self.faults)
        except OSError as error:
            self.faults.add('file-unreadable', name, '', str(error.strerror))
            return []
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                thing = self._object(name, f'line {number}', line.split(), item)
                found += [thing] if thing else []
        return found

    def _object(
        self, name: str, where: str, words: list[str], item: Item
    ) -> Object | None:
        try:
            label, *values = (float(word) for word in words)
        except ValueError:
            self.faults.add('line-unreadable', name, where, ' '.join(words)[:40])
            return None
        if self.pose and len(values) > 4:
            values = values[:4]
            self.keypoints += 1
        polygon = len(values) >= 6 and len(values) % 2 == 0
        finite = all(map(math.isfinite, (label, *values)))
        if not (polygon or len(values) == 4) or not finite:
            detail = f'{len(words)} values'
            self.faults.add('line-unreadable', name, where, detail)
            return None
        if label != int(label) or label < 0 or (self.count and label >= self.count):
            expected = f'expected 0 to {self.count - 1}' if self.count else ''
            detail = f'{words[0]}, {expected}'.rstrip(', ')
            self.faults.add('label-range', name, where, detail)
            return None
        wrong = [v for v in values if not -TOLERANCE <= v <= 1 + TOLERANCE]
        if wrong:
            self.faults.add('coordinate-range', name, where, f'{wrong[0]:g}')
            return None
        if not item.width:  # the image is missing or damaged, which is a fault
            return None
        if not polygon:
            box = _pixels(values, item)
            return Object(int(label), box, where=where)
        sides = item.width, item.height
        points = [v * sides[i % 2] for i, v in enumerate(values)]
        return Object(int(label), bounds([points]), [points], where=where)


def _pixels(values: list[float], item: Item) -> Box:
    """Return a box in pixels, whole ones if the file means them.

    They do where the difference is within the rounding of the fractions.
    """
    x, y, w, h = values
    sides = item.width, item.height
    exact = (x - w / 2, y - h / 2, w, h)
    left, top, width, height = map(_scaled, exact, (*sides, *sides))
    return left, top, width, height


def _scaled(value: float, side: int) -> float:
    pixels = value * side
    near = abs(pixels - round(pixels)) <= DIGITS * side
    return float(round(pixels)) if near else pixels
