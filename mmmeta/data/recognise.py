"""Recognizing a data set's format by its content."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from mmmeta.data import class_folders, coco, labelme, maps, pairs, voc, yolo
from mmmeta.data.check import check
from mmmeta.data.model import DataSet
from mmmeta.data.tree import Tree, suffix_of
from mmmeta.errors import UserError

LAYOUTS = [m.LAYOUT for m in (coco, yolo, voc, labelme, maps, class_folders)]


def read_data(path: str | os.PathLike[str]) -> DataSet:
    """Read a data set of any known format, with everything that is wrong with it.

    Args:
        path: Its folder; or a COCO file or a data.yaml.

    Raises:
        UserError: There is nothing, or the format is not recognized; lists what was
            found and what is expected.
    """
    place = Path(path)
    if place.is_file():
        data = _read_file(place)
    elif place.is_dir():
        data = _read_folder(Tree(place))
    else:
        raise UserError(f'{path}: no such file or folder; expected a data set')
    check(data)
    return data


def _read_file(path: Path) -> DataSet:
    root = path.absolute().parent
    if path.suffix.lower() in ('.yaml', '.yml'):
        tree = Tree(root)
        return yolo.read(tree, path.name, yolo.find(tree)[1])
    if path.suffix.lower() != '.json':
        raise UserError(f'{path}: expected a folder, a COCO file or a data.yaml')
    if root.name in ('annotations', 'labels'):
        root = root.parent
    tree = Tree(root)
    name = tree.relative(path.absolute())
    if name in labelme.find(tree):
        raise UserError(f'{path} is of LabelMe: give the folder, {path.parent}')
    return coco.read(tree, [name])


def _read_folder(tree: Tree) -> DataSet:
    files = coco.find(tree)
    if files:
        return coco.read(tree, files)
    config, labels = yolo.find(tree)
    if config or labels:
        return yolo.read(tree, config, labels)
    for module in (voc, labelme):
        if files := module.find(tree):
            return module.read(tree, files)
    found = pairs.find(tree)
    if found:
        return maps.read(tree, found)
    starts = class_folders.find(tree)
    if starts:
        return class_folders.read(tree, starts)
    raise UserError(
        f'{tree.root} is no data set of a known format: it contains {_contents(tree)}. '
        f'Expected one of: {"; ".join(LAYOUTS)}'
    )


def _contents(tree: Tree) -> str:
    """Return how many files of each kind there are, and in which folders."""
    kinds = Counter(suffix_of(name) or 'no suffix' for name in tree.files)
    if not kinds:
        return 'no files'
    texts = [f'{count} {kind}' for kind, count in kinds.most_common(5)]
    folders = sorted({name.split('/')[0] for name in tree.files if '/' in name})
    if not folders:
        return f'{", ".join(texts)}, in no folders'
    more = ', ...' if len(folders) > 5 else ''
    return f'{", ".join(texts)}, in the folders {", ".join(folders[:5])}{more}'
