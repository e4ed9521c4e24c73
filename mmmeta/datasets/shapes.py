"""Writes the shapes data set: the same scenes as COCO, ADE20K and folders.

The layout under the root, for each of the splits ``train`` and ``val``::

    images/train/000001.jpg
    annotations/instances_train.json    boxes and masks, as in COCO
    semantic/train/000001.png           class maps, as in ADE20K
    classes/train/circle/000001.jpg     by largest instance, as in ImageNet
    dataset.json                        the parameters of the data set
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mmmeta.data.folders import link_or_copy
from mmmeta.datasets._coco import INFO, Instances
from mmmeta.datasets._scene import CLASSES, MIN_SIZE, Scene, make_scene

SPLITS = ('train', 'val')
# A semantic map contains a class's index + 1, or this value where there is no shape.
BACKGROUND = len(CLASSES) + 1
JPEG_QUALITY = 95
# Increase this whenever the same parameters give different files.
FORMAT, FORMAT_VERSION = 'mmmeta-shapes', 2
AREAS = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}

_OUR_FILES = re.compile(
    r'dataset\.json|annotations/instances_(train|val)\.json'
    r'|images/(train|val)/\d{6}\.jpg|semantic/(train|val)/\d{6}\.png'
    rf'|classes/(train|val)/({"|".join(CLASSES)})/\d{{6}}\.jpg'
)


def _semantic_map(scene: Scene) -> np.ndarray:
    """Return the scene's class map, uint8 (H, W)."""
    semantic = np.full(scene.image.shape[:2], BACKGROUND, np.uint8)
    for mask, label in zip(scene.masks, scene.labels, strict=True):
        semantic[mask] = label + 1
    return semantic


def _write_image(path: Path, image: np.ndarray, *options: int) -> None:
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise OSError(f'OpenCV could not encode {path.name}')
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    path.write_bytes(text.encode() + b'\n')


def _write_scene(root: Path, split: str, stem: str, scene: Scene) -> None:
    """Write a scene's image and class map, and link the image in its class folder."""
    image = root / 'images' / split / f'{stem}.jpg'
    _write_image(image, scene.image, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    _write_image(root / 'semantic' / split / f'{stem}.png', _semantic_map(scene))
    main = CLASSES[scene.labels[np.argmax(scene.masks.sum((1, 2)))]]
    link_or_copy(image, root / 'classes' / split / main / image.name)


def _write_split(root: Path, split: str, params: dict, indexes: Iterable[int]) -> None:
    # Empty class folders are needed for correct class indices.
    folders = [f'classes/{split}/{name}' for name in CLASSES]
    for folder in (f'images/{split}', f'semantic/{split}', *folders):
        (root / folder).mkdir(parents=True)
    instances = Instances()
    for k in indexes:
        # Each image has its own generator, so it does not depend on the others.
        rng = np.random.default_rng([params['seed'], SPLITS.index(split), k])
        scene = make_scene(rng, params['size'], params['easy'])
        stem = f'{k + 1:06d}'
        _write_scene(root, split, stem, scene)
        instances.add(f'{stem}.jpg', scene)
    (root / 'annotations').mkdir(exist_ok=True)
    path = root / 'annotations' / f'instances_{split}.json'
    _write_json(path, instances.content())


def _write_set(root: Path, params: dict, progress: bool) -> None:
    for split in SPLITS:
        bar = tqdm(
            range(params[f'num_{split}']),
            f'{split} images',
            unit='image',
            # In a log file, print only a few lines.
            mininterval=0.1 if sys.stderr.isatty() else 10,
            disable=not progress,
        )
        _write_split(root, split, params, bar)
    # Written last: its existence means that the data set is complete.
    _write_json(root / 'dataset.json', params)


# -- the output folder ------------------------------------------------------


def _read_json(path: Path) -> dict:
    """Return a file's JSON object; empty if there is no such file or object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_complete(root: Path, params: dict) -> bool:
    """Whether root contains the complete data set of these parameters."""
    if _read_json(root / 'dataset.json') != params:
        return False
    for split in SPLITS:
        if not (root / 'annotations' / f'instances_{split}.json').is_file():
            return False
        for pattern in (
            f'images/{split}/*.jpg',
            f'semantic/{split}/*.png',
            f'classes/{split}/*/*.jpg',
        ):
            if sum(1 for _ in root.glob(pattern)) != params[f'num_{split}']:
                return False
    return True


def _check_replaceable(root: Path) -> None:
    """Raise FileExistsError if root contains anything but a shapes data set."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    marks = [_read_json(root / 'dataset.json').get('format') == FORMAT]
    for split in SPLITS:
        path = root / 'annotations' / f'instances_{split}.json'
        marks.append(_read_json(path).get('info') == INFO)
    foreign = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob('*')
        if not p.is_dir() and not _OUR_FILES.fullmatch(p.relative_to(root).as_posix())
    )
    if any(marks) and not foreign:
        return
    reason = (
        f'contains other files ({foreign[0]})'
        if foreign
        else 'is not a folder with a shapes data set'
    )
    raise FileExistsError(
        f'{root} exists and {reason}; nothing was changed. Choose another '
        'root for the shapes data set, or move or delete this one.'
    )


def _install(built: Path, root: Path, params: dict, aside: Path) -> None:
    """Move a finished data set to root; an existing one is moved to aside.

    If another process has put the same data set there, that one is kept.
    """
    if root.exists() and not _is_complete(root, params):
        _check_replaceable(root)
        # Another process may have moved it in the meantime.
        with contextlib.suppress(FileNotFoundError):
            os.rename(root, aside)
    try:
        os.rename(built, root)
    except OSError:
        if not _is_complete(root, params):
            raise


def _integer(name: str, value: int, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ValueError(
            f'{name} must be an integer from {low} to {high}, got {value!r}'
        )
    return number


def make_shapes(
    root: str | os.PathLike[str],
    *,
    num_train: int = 1000,
    num_val: int = 200,
    size: int = 256,
    seed: int = 0,
    easy: bool = False,
    progress: bool = True,
) -> Path:
    """Make the shapes data set, unless it already exists.

    It is built in a temporary folder next to ``root`` and renamed at the end. A shapes
    data set with other parameters or missing files is replaced. The same parameters and
    library versions give the same bytes; an image does not depend on the number of
    images.

    Args:
        root: The output folder. Missing parents are created.
        num_train: Number of training images, 1 to 999999. Default: 1000.
        num_val: Number of validation images, 1 to 999999. Default: 200.
        size: Height and width of the images in pixels, 64 to 4096. Default: 256.
        seed: 0 to 2**32 - 1. Default: 0.
        easy: Draw few shapes, none of them small or mostly hidden, which a detector
            learns within minutes. Default: False.
        progress: Show the progress on stderr. Default: True.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: A number is not an integer in its range.
        FileExistsError: ``root`` contains anything but a shapes data set.
    """
    params = {
        'format': FORMAT,
        'version': FORMAT_VERSION,
        'classes': list(CLASSES),
        'num_train': _integer('num_train', num_train, 1, 999_999),
        'num_val': _integer('num_val', num_val, 1, 999_999),
        'size': _integer('size', size, MIN_SIZE, 4096),
        'seed': _integer('seed', seed, 0, 2**32 - 1),
        'easy': bool(easy),
    }
    # If root is a link, replace its target.
    target = Path(root).resolve()
    if _is_complete(target, params):
        return Path(root)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    threads = cv2.getNumThreads()
    # On such small images threads cost more than they save.
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f'.{target.name}-building-', dir=target.parent
        ) as temporary:
            built = Path(temporary, 'new')
            _write_set(built, params, progress)
            _install(built, target, params, Path(temporary, 'old'))
    finally:
        cv2.setNumThreads(threads)
    return Path(root)


def describe_shapes(root: str | os.PathLike[str]) -> str:
    """Return a table of a data set's instances by split, class and COCO area.

    Raises:
        FileNotFoundError: ``root`` contains no shapes data set.
    """
    lines = []
    for split in SPLITS:
        path = Path(root, 'annotations', f'instances_{split}.json')
        content = json.loads(path.read_bytes())
        instances = content['annotations']
        lines += [
            f'{split}: {len(content["images"])} images, {len(instances)} instances',
            f'{"":12}' + ''.join(f'{name:>8}' for name in AREAS),
        ]
        for category in content['categories']:
            areas = [a['area'] for a in instances if a['category_id'] == category['id']]
            counts = [
                sum(low <= area < high for area in areas)
                for low, high in AREAS.values()
            ]
            lines.append(
                f'  {category["name"]:10}' + ''.join(f'{count:8d}' for count in counts)
            )
    return '\n'.join(lines)
