"""What to train on a data set: the method, the base config, sizes and schedule."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmmeta.archs.families import ARCHS, FAMILIES
from mmmeta.data import DataSet
from mmmeta.data.model import Item
from mmmeta.errors import InvalidValueError, UserError
from mmmeta.weights.names import SCHEME, find, is_name, nearest
from mmmeta.weights.trained import Trained
from mmmeta.weights.zoo import ZOO

# By method: the task of its data, and the metric that tells which checkpoint is best.
METHODS = {
    'retinanet': ('detection', 'coco/bbox_mAP'),
    'mask_rcnn': ('instances', 'coco/segm_mAP'),
    'cascade_mask_rcnn': ('instances', 'coco/segm_mAP'),
    'semantic_fpn': ('segmentation', 'mIoU'),
    'upernet': ('segmentation', 'mIoU'),
    'classifier': ('classification', 'accuracy/top1'),
}
DEFAULTS = {
    'detection': 'retinanet',
    'instances': 'mask_rcnn',
    'segmentation': 'semantic_fpn',
    'classification': 'classifier',
}
# Where MMEngine looks for `mmmeta::`.
ZOO_CONFIGS = Path(__file__).resolve().parents[1] / '.mim' / 'configs'
BACKBONE = 'poolformer_s12'
# Recipes for a start from random weights, which normalize the neck and the heads.
SCRATCH = {
    'retinanet': 'detection/retinanet_poolformer_s12_shapes.py',
    'mask_rcnn': 'detection/mask_rcnn_poolformer_s12_shapes.py',
    'semantic_fpn': 'segmentation/semantic_fpn_poolformer_s12_shapes.py',
}
# The base of a method for a backbone that has no config of its own.
NEAREST = {
    'retinanet': 'detection/retinanet_poolformer_s12.py',
    'mask_rcnn': 'detection/mask_rcnn_convformer_s18.py',
    'cascade_mask_rcnn': 'detection/cascade_mask_rcnn_convformer_s18.py',
    'semantic_fpn': 'segmentation/semantic_fpn_poolformer_s12.py',
    'upernet': 'segmentation/upernet_convformer_s18.py',
}
IMAGES = 12_000  # that a training sees by default: those of few images more often
EPOCHS = 12, 100  # least and most
# Longer and shorter side of the published models' images.
SIDES = {
    'detection': (1333, 800),
    'instances': (1333, 800),
    'segmentation': (512, 512),
}
LARGE = 512  # side in pixels, above which objects may be too large for `SCRATCH`
RARE = 0.1  # share of the images with a class below which they are repeated
FEW = 10_000  # images; in larger data sets nothing is repeated
LEAST_SIDE = 32  # of an image, as the backbones need
# Parts that only whole models have; a classifier's checkpoint is its backbone.
WHOLE = ('neck.', 'bbox_head.', 'rpn_head.', 'roi_head.', 'decode_head.')


@dataclass(frozen=True)
class Plan:
    """All decisions; the config says them again.

    Attributes:
        method: A key of `METHODS`.
        backbone: A name of `ARCHS`.
        base: The config that is inherited, in configs/.
        own_backbone: Whether the base has this backbone already.
        weights: Checkpoint that the backbone starts from, or None.
        load_from: Checkpoint that the whole model starts from, or None.
        classes: Names.
        train: Number of training images.
        epochs: Passes over them.
        batch_size: Images per process.
        size: Longer and shorter side of the images in pixels; None: the base's.
        smallest: Side of the smallest anchor in pixels, or None for the base's.
        elongated: Whether `base` is one for square boxes, and the boxes are not.
        large: Whether it is one for small images, and the images are not.
        balance: Share below which images with a rare class are repeated, or None.
        keep_all: Whether training images are used that the base leaves out: those
            without objects, and those with a side below 32.
        frozen_stages: As the backbone's argument; -1: none.
        seed: Random seed.
        workers: Processes that read images.
    """

    method: str
    backbone: str
    base: str
    own_backbone: bool
    weights: str | None
    load_from: str | None
    classes: tuple[str, ...]
    train: int
    epochs: int
    batch_size: int
    size: tuple[int, int] | None
    smallest: int | None
    elongated: bool
    large: bool
    balance: float | None
    keep_all: bool
    frozen_stages: int
    seed: int
    workers: int

    @property
    def task(self) -> str:
        """The task of the data."""
        return METHODS[self.method][0]

    @property
    def metric(self) -> str:
        """The metric by which the best checkpoint is kept."""
        return METHODS[self.method][1]

    @property
    def type(self) -> str:
        """The class of the backbone in `mmmeta.models`."""
        return class_of(self.backbone)


def class_of(backbone: str) -> str:
    """Return the class of a backbone, such as 'CAFormer' of 'caformer_s18'."""
    family = backbone.partition('_')[0]
    return next(f.name for f in FAMILIES if f.name.lower() == family)


def make_plan(
    data: DataSet,
    train: Sequence[Item],
    *,
    method: str | None = None,
    backbone: str | None = None,
    weights: str = 'zoo',
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: tuple[int, int] | None = None,
    frozen_stages: int = -1,
    seed: int = 0,
    workers: int | None = None,
) -> Plan:
    """Decide what to train.

    Args:
        data: The data set, without errors.
        train: Its training images.
        method: A key of `METHODS`. Default: by the annotations.
        backbone: A name of `mmmeta list`. Default: that of `weights` if they are a
            published model's, else poolformer_s12.
        weights: 'zoo' for the backbone's published weights, 'none' for random ones,
            or a detector's, segmentor's or classifier's checkpoint: a file, a URL, or
            a published name. Default: 'zoo'.
        epochs: Passes over the training images. Default: as many as show about 12,000
            images, 12 to 100.
        batch_size: Images per process. Default: the base config's, or fewer if there
            are few.
        image_size: Longer and shorter side in pixels. Default: the base config's, or
            the images' if these are smaller.
        frozen_stages: As the backbone's argument. Default: -1, none.
        seed: Random seed. Default: 0.
        workers: Processes that read images. Default: one per core, at most 4.

    Raises:
        InvalidValueError: An unknown method or backbone.
        UserError: The method does not suit the annotations.
    """
    given = _given(weights)
    if method is None and given.method and _suits(given.method, data.task):
        method = given.method
    method = _method(data, method)
    _check_numbers(method, data, len(train), batch_size, image_size)
    backbone = backbone or given.backbone or BACKBONE
    if backbone not in ARCHS:
        close = nearest(backbone, list(ARCHS))
        raise InvalidValueError(
            f'backbone {backbone!r} is unknown'
            + (f'; nearest: {", ".join(close)}' if close else '')
            + '. `mmmeta list` prints all'
        )
    base, own = _base(method, backbone, given.scratch)
    if given.config and given.method == method:
        base, own = given.config, backbone == given.backbone
    whole = given.whole or (given.model and method == 'classifier')
    size = image_size or _size(data, METHODS[method][0])
    scratch = base in SCRATCH.values()
    if scratch and size is None:  # these are for small images
        size = SIDES[METHODS[method][0]]
    least, most = EPOCHS
    return Plan(
        method=method,
        backbone=backbone,
        base=base,
        own_backbone=own,
        weights=_weights_of(backbone)
        if weights == 'zoo'
        else (None if whole else given.file),
        load_from=given.file if whole else None,
        classes=tuple(data.classes),
        train=len(train),
        epochs=epochs or min(most, max(least, round(IMAGES / len(train)))),
        batch_size=batch_size or _batch_size(method, len(train)),
        size=size,
        smallest=_smallest(data, size),
        # Other anchors than those of the weights would leave its boxes random.
        elongated=scratch
        and (_elongated(data) if given.square is None else not given.square),
        large=scratch and size is not None and max(size) > LARGE,
        balance=_balance(data, train),
        keep_all=_keep_all(data, train),
        frozen_stages=frozen_stages,
        seed=seed,
        workers=min(4, os.cpu_count() or 1) if workers is None else workers,
    )


def _suits(method: str, task: str) -> bool:
    """Whether data for a task are what a method needs; boxes are all for RetinaNet."""
    kind = METHODS[method][0]
    return kind == task or (kind, task) == ('detection', 'instances')


def _method(data: DataSet, method: str | None) -> str:
    if method is None:
        return DEFAULTS[data.task]
    if method not in METHODS:
        raise InvalidValueError(
            f'method {method!r} is unknown; expected one of {", ".join(METHODS)}'
        )
    if not _suits(method, data.task):
        fitting = [name for name in METHODS if _suits(name, data.task)]
        raise UserError(
            f'method {method} needs data for {METHODS[method][0]}, and these are for '
            f'{data.task}: choose {" or ".join(fitting)}'
        )
    return method


@dataclass(frozen=True)
class Given:
    """What is known of `weights`.

    Attributes:
        file: Where they are; None: not given.
        method: Of a published detector or segmentor.
        config: Likewise, its config.
        backbone: A name of `ARCHS`.
        whole: Whether they are a detector's or segmentor's.
        model: Whether they are any model's of the host libraries.
        scratch: Whether the neck has norms, as those of `SCRATCH`.
        square: Whether all anchors are; None: unknown.
    """

    file: str | None = None
    method: str | None = None
    config: str | None = None
    backbone: str | None = None
    whole: bool = False
    model: bool = False
    scratch: bool = False
    square: bool | None = None


def _given(text: str) -> Given:
    """Return what is known of the weights that a user names.

    Raises:
        UserError: There is no such file.
        CheckpointError: It cannot be read.
    """
    if text in ('zoo', 'none'):
        return Given(scratch=text == 'none')
    if text.startswith(SCHEME) or ('/' not in text and not os.path.exists(text)):
        if not is_name(text):
            close = nearest(text, list(ZOO))
            raise UserError(
                f'weights {text}: no such file; expected zoo, none, a checkpoint (a '
                'file or a URL) or a name of `mmmeta list --task detection`'
                + (f', nearest: {", ".join(close)}' if close else '')
            )
        row = find(text)
        if not isinstance(row, Trained):
            return Given(SCHEME + row.name, backbone=row.arch)
        name = row.config.partition('/')[2].removesuffix('.py')
        return Given(
            SCHEME + row.name,
            method=max((m for m in METHODS if name.startswith(m)), key=len),
            config=row.config,
            backbone=max((arch for arch in ARCHS if arch in name), key=len),
            whole=True,
        )
    if '://' not in text and not os.path.isfile(os.path.expanduser(text)):
        raise UserError(f'weights {text}: no such file')
    return _of_file(text)


def _of_file(text: str) -> Given:
    from mmmeta.weights.locate import locate
    from mmmeta.weights.reading import read_file, unwrap

    path = locate(text)
    content = read_file(path)
    state = unwrap(content, text)
    keys = list(state)
    return Given(
        text if '://' in text else str(path.absolute()),
        backbone=_backbone_of(content),
        whole=any(key.startswith(WHOLE) for key in keys),
        model=any(key.startswith('backbone.') for key in keys),
        scratch=any(re.match(r'neck\..*\.(gn|bn)\.', key) for key in keys),
        square=_square(state),
    )


def _square(state: Mapping[str, Any]) -> bool | None:
    """Return whether a detector has one anchor of each size, or None if unknown."""
    for key, sizes in (('bbox_head.retina_reg.bias', 3), ('rpn_head.rpn_reg.bias', 1)):
        if key in state:
            return len(state[key]) == 4 * sizes
    return None


def _backbone_of(content: Any) -> str | None:
    """Return the backbone in the config that MMEngine saves in a checkpoint."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    found = re.search(r'backbone=dict\((?:[^()]|\([^()]*\))*\)', text)
    inside = found.group() if found else ''
    kind = re.search(r"type='mmmeta\.(\w+)'", inside)
    size = re.search(r"arch='(\w+)'", inside)
    name = f'{kind[1].lower()}_{size[1]}' if kind and size else None
    return name if name in ARCHS else None


def _check_numbers(
    method: str,
    data: DataSet,
    train: int,
    batch_size: int | None,
    image_size: tuple[int, int] | None,
) -> None:
    """Reject what would fail, or teach nothing, after minutes.

    Raises:
        InvalidValueError: A size is too small.
        UserError: There is only one class to tell apart.
    """
    if image_size and min(image_size) < LEAST_SIDE:
        raise InvalidValueError(
            f'images of {min(image_size)} pixels are too small; expected a side of at '
            f'least {LEAST_SIDE}'
        )
    if method == 'upernet' and 1 in (batch_size, train):
        raise InvalidValueError(
            'upernet needs at least 2 images per step, for its batch norms: choose '
            'another batch size, or method semantic_fpn'
        )
    if METHODS[method][0] in ('segmentation', 'classification'):
        if len(data.classes) < 2:
            name = data.classes[0] if data.classes else 'none'
            raise UserError(
                f'{data.root} has one class, {name}: a model for {data.task} needs at '
                'least two to tell apart'
            )
    elif not data.classes:
        raise UserError(f'{data.root} has no classes, so there is nothing to learn')


def _weights_of(backbone: str) -> str:
    """Return the address of a backbone's published weights."""
    names = [name for name, row in ZOO.items() if row.arch == backbone]
    return SCHEME + names[0]


def _base(method: str, backbone: str, scratch: bool) -> tuple[str, bool]:
    """Return the config to inherit, and whether it has the backbone."""
    if scratch and method in SCRATCH:
        return SCRATCH[method], backbone == 'poolformer_s12'
    if method == 'classifier':
        return f'classification/{backbone}.py', True
    folder = 'segmentation' if METHODS[method][0] == 'segmentation' else 'detection'
    own = f'{folder}/{method}_{backbone}.py'
    return (own, True) if (ZOO_CONFIGS / own).is_file() else (NEAREST[method], False)


def _size(data: DataSet, task: str) -> tuple[int, int] | None:
    """Return sides for images that are smaller than the base config's."""
    sides = [(max(i.width, i.height), min(i.width, i.height)) for i in data.items]
    long, short = (round(median(x)) for x in zip(*sides, strict=True))
    if task == 'classification':
        return None
    if task == 'segmentation':
        if short >= min(SIDES[task]):
            return None
        return _multiple(long), _multiple(short)
    return None if long >= SIDES['detection'][0] / 2 else (long, short)


def _multiple(side: int) -> int:
    return max(64, math.ceil(side / 32) * 32)


def _batch_size(method: str, train: int) -> int:
    full = {'classifier': 32, 'semantic_fpn': 8}.get(method, 4)
    least = 2 if method == 'upernet' else 1  # for its batch norms
    return max(least, min(full, train // 4))


def _smallest(data: DataSet, size: tuple[int, int] | None) -> int | None:
    """Return the side of an anchor that fits all but the smallest tenth of the boxes.

    None: anchors as small as the base configs' do.
    """
    sides = []
    for item in data.items:
        long, short = size or SIDES['detection']
        if not item.width or not item.height:
            continue
        sides_of = max(item.width, item.height), min(item.width, item.height)
        ratio = min(long / sides_of[0], short / sides_of[1])
        for thing in item.objects:
            sides.append(ratio * math.sqrt(max(thing.box[2] * thing.box[3], 0)))
    if not sides:
        return None
    tenth = sorted(sides)[len(sides) // 10]
    return next((side for side in (8, 16) if tenth < side * 1.5), None)


def _elongated(data: DataSet) -> bool:
    """Whether over a tenth of the boxes are more than 1.5 times as long as wide."""
    sides = [sorted(t.box[2:]) for i in data.items for t in i.objects]
    return sum(1.5 * short < long for short, long in sides) > len(sides) / 10


def _keep_all(data: DataSet, items: Sequence[Item]) -> bool:
    """Whether the base config's data set would leave out some of the images."""
    return data.task in ('detection', 'instances') and any(
        not item.objects or min(item.size) < LEAST_SIDE for item in items
    )


def _balance(data: DataSet, items: Sequence[Item]) -> float | None:
    """Return the share of images with a class below which they are repeated."""
    if data.task == 'segmentation' or len(items) > FEW:
        return None
    counts = [0] * len(data.classes)
    for item in items:
        labels = {thing.label for thing in item.objects if not thing.crowd}
        if item.label is not None:
            labels.add(item.label)
        for label in labels:
            counts[label] += 1
    shares = [count / len(items) for count in counts if count]
    return RARE if shares and min(shares) < RARE / 2 else None
