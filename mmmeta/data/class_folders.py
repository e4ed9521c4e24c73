"""Reading class folders: the folder of an image is its class."""

from __future__ import annotations

import os

from mmmeta.data.faults import Faults
from mmmeta.data.model import DataSet, Item, Split
from mmmeta.data.tree import SUFFIXES, Tree, folder, in_order, suffix_of

LAYOUT = 'class folders: train/CLASS/NAME.jpg and val/CLASS/NAME.jpg, or CLASS/NAME.jpg'
NAMES = {
    **dict.fromkeys(('train', 'training'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation', 'dev'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
# Folders that hold all images of other formats, not those of a class.
NO_CLASSES = {'images', 'imgs', 'img', 'jpegimages', 'photos', 'image', 'pictures'}


def find(tree: Tree) -> dict[str, str]:
    """Return the folder of each split; `''` is the root. Empty of other formats."""
    top = ''
    tops = _folders(tree, top)
    while len(tops) == 1 and tops[0].lower() not in NAMES:  # as archives have it
        top = f'{top}/{tops[0]}'.lstrip('/')
        tops = _folders(tree, top)
    splits = {
        NAMES[name.lower()]: f'{top}/{name}'.lstrip('/')
        for name in tops
        if name.lower() in NAMES
    }
    splits = splits or {'train': top}
    full = {folder(name) for name in tree.images}
    full |= {parent for name in full for parent in _parents(name)}
    for start in splits.values():
        classes = [c for c in _folders(tree, start) if c.lower() not in NO_CLASSES]
        if len(classes) > 1 and any(
            f'{start}/{c}'.lstrip('/') in full for c in classes
        ):
            return splits
    return {}


def _parents(name: str) -> list[str]:
    """Return all folders that a folder is in."""
    parts = name.split('/')
    return ['/'.join(parts[:i]) for i in range(1, len(parts))]


def read(tree: Tree, starts: dict[str, str]) -> DataSet:
    """Read a data set.

    Args:
        tree: Its files.
        starts: The folders of the splits.
    """
    faults = Faults()
    starts = in_order(starts)
    first, *others = starts
    classes = _folders(tree, starts[first])
    for split in others:
        here = _folders(tree, starts[split])
        new = [name for name in here if name not in classes]
        for name in new:
            faults.add('class-new', f'{starts[split]}/{name}')
        missing = [name for name in classes if name not in here]
        if missing:
            detail = f'{len(here)} of {len(classes)}; {missing[0]!r} has no folder'
            faults.add('class-count', starts[split], '', detail)
        classes += new
    labels = {name: i for i, name in enumerate(classes)}
    found: dict[str, list[Item]] = {split: [] for split in starts}
    for name in tree.files:
        for split, start in starts.items():
            inner = name[len(start) :].lstrip('/') if start else name
            if start and not name.startswith(f'{start}/'):
                continue
            label, slash, _ = inner.partition('/')
            if suffix_of(name) in SUFFIXES:
                if slash and label in labels:
                    item = Item(tree.root / name, inner, label=labels[label])
                    found[split].append(item)
                else:
                    faults.add('image-unused', name, '', 'it is in no class folder')
    splits = {}
    for split, items in found.items():
        start = starts[split]
        splits[split] = Split(items, tree.root / start, None, start)
        if not items:
            faults.add('split-empty', start)
    return DataSet(tree.root, 'folders', 'classification', classes, splits, faults)


def _folders(tree: Tree, start: str) -> list[str]:
    """Return the folders directly in one, sorted; empty ones, too."""
    with os.scandir(tree.root / start) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(n for n in names if not n.startswith('.') and n != '__MACOSX')
