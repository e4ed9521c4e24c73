"""Writing the annotations that a config names, in the host libraries' formats.

Images stay where they are, unless they are only inside of annotation files.
"""

import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmmeta.data import DataSet, Item
from mmmeta.data.tree import MARKER
from mmmeta.errors import UserError

HELD_OUT = 0.2  # of a data set without a validation split
MOST_HELD_OUT = 5000


def split(data: DataSet, seed: int = 0) -> dict[str, list[Item]]:
    """Return the items for 'train' and 'val', and for 'test' if there are any, by name.

    Without a validation split, one in five images is held out, at random, but of each
    class as many.

    Raises:
        UserError: There are too few images.
    """
    parts = {
        name: sorted(part.items, key=lambda item: item.name)
        for name, part in data.splits.items()
    }
    if 'train' not in parts or len(parts['train']) < 2:
        raise UserError(
            f'{data.root} has too few training images: expected at least 2, better 50'
        )
    if 'val' not in parts:
        parts['train'], parts['val'] = _hold_out(parts['train'], seed)
    order = ('train', 'val', 'test')
    return {name: parts[name] for name in order if name in parts}


def _hold_out(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    groups: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        labels = sorted({thing.label for thing in item.objects})
        key = item.label if item.label is not None else (labels or [-1])[0]
        groups.setdefault(key, []).append(i)
    order = random.Random(seed)
    chosen: set[int] = set()
    share = min(HELD_OUT, MOST_HELD_OUT / len(items))
    for key in sorted(groups, key=repr):
        group = groups[key]
        order.shuffle(group)
        # At least one is left to train on.
        chosen.update(group[: min(round(share * len(group)), len(group) - 1)])
    if not chosen:
        chosen.add(order.randrange(len(items)))
    held = [item for i, item in enumerate(items) if i in chosen]
    return [item for i, item in enumerate(items) if i not in chosen], held


def write_annotations(
    data: DataSet, parts: Mapping[str, Sequence[Item]], folder: Path
) -> dict[str, dict[str, Any]]:
    """Write the annotations of each split.

    Args:
        data: The data set.
        parts: Its items by split.
        folder: Where to; it is created.

    Returns:
        By split, the settings of the host library's data set that name the files.

    Raises:
        UserError: The folder has files of somebody else, or one cannot be written.
    """
    _empty(folder)
    for name, items in parts.items():
        for i, item in enumerate(items):
            if item.embedded:  # in LabelMe's file
                _extract(item, data, folder / 'images' / name / f'{i:06d}.jpg')
    write = {
        'segmentation': _write_maps,
        'classification': _write_lists,
    }.get(data.task, _write_coco)
    return {name: write(data, name, items, folder) for name, items in parts.items()}


def _empty(folder: Path) -> None:
    """Make an empty folder, in place of one that was written before."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise UserError(
                f'{folder} exists, and is not of an earlier run: choose another '
                '--work-dir'
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def _extract(item: Item, data: DataSet, target: Path) -> None:
    from mmmeta.data.convert import put_image

    put_image(item, data, target)
    item.path, item.embedded = target, False


def _common(items: Sequence[Item]) -> str:
    """Return the folder that all images are in."""
    return os.path.commonpath([os.path.dirname(os.path.abspath(i.path)) for i in items])


def _write_coco(
    data: DataSet, name: str, items: Sequence[Item], folder: Path
) -> dict[str, Any]:
    from mmmeta.data.convert import coco_row

    root = _common(items)
    images: list[dict] = []
    rows: list[dict] = []
    for i, item in enumerate(items, 1):
        path = os.path.relpath(os.path.abspath(item.path), root)
        width, height = item.size
        images.append(dict(id=i, file_name=path, width=width, height=height))
        for thing in item.objects:
            row = coco_row(thing, item, i, thing.label + 1)
            rows.append(dict(row, id=len(rows) + 1))
    categories = [dict(id=i, name=name) for i, name in enumerate(data.classes, 1)]
    content = dict(images=images, annotations=rows, categories=categories)
    file = folder / f'{name}.json'
    write_text(file, json.dumps(content))
    return dict(ann_file=str(file), data_prefix=dict(img=f'{root}/'))


def _write_lists(
    data: DataSet, name: str, items: Sequence[Item], folder: Path
) -> dict[str, Any]:
    root = _common(items)
    file = folder / f'{name}.txt'
    lines = [
        f'{os.path.relpath(os.path.abspath(item.path), root)} {item.label}\n'
        for item in items
    ]
    write_text(file, ''.join(lines))
    return dict(ann_file=str(file), data_prefix=root)


def _write_maps(
    data: DataSet, name: str, items: Sequence[Item], folder: Path
) -> dict[str, Any]:
    """Link images and maps under equal names; convert maps that are no indices."""
    from PIL import Image

    from mmmeta.data.maps import read_map

    images, maps = folder / 'images' / name, folder / 'maps' / name
    images.mkdir(parents=True, exist_ok=True)
    maps.mkdir(parents=True, exist_ok=True)
    assert data.maps is not None
    for i, item in enumerate(items):
        assert item.map is not None
        stem = f'{i:06d}-{Path(item.name).stem}'
        # MMSegmentation takes one suffix for all; decoders go by content.
        _link(item.path, images / f'{stem}.jpg')
        target = maps / f'{stem}.png'
        if data.maps.direct:
            _link(item.map, target)
        else:
            target.unlink(missing_ok=True)
            Image.fromarray(read_map(item.map, data.maps)).save(target)
    return dict(
        data_root=str(folder),
        data_prefix=dict(img_path=f'images/{name}', seg_map_path=f'maps/{name}'),
        reduce_zero_label=data.maps.direct and data.maps.zero_ignored,
    )


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(os.path.abspath(source))


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        UserError: It cannot be written.
    """
    partial = path.with_name(f'.{path.name}.part')
    try:
        partial.write_text(text, 'utf-8', 'surrogateescape')
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
