"""What every data set is read into, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmmeta.data.faults import Faults, Problem

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]
SPLITS = ('train', 'val', 'test')
IGNORED = 255  # the value of pixels without a class, as in MMSegmentation


@dataclass(slots=True)
class Object:
    """One annotated object.

    Attributes:
        label: Index into the data set's classes.
        box: x, y, width and height in pixels; x and y from the image's left upper
            corner, so that a box of the whole image is (0, 0, width, height).
        polygons: The mask as outlines, each [x, y, x, y, ...] in pixels, or None.
        rle: The mask as COCO's RLE, `size` and `counts`, or None.
        crowd: Whether it is a group of objects, which does not count as a miss.
        where: Where it is in the annotation file, such as 'line 3'.
        extra: What else the file says of it, under the names of COCO where it has one.
    """

    label: int
    box: Box
    polygons: list[list[float]] | None = None
    rle: dict[str, Any] | None = None
    crowd: bool = False
    where: str = ''
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether it has a mask."""
        return bool(self.polygons) or self.rle is not None


@dataclass(slots=True)
class Item:
    """One image with its annotations.

    Attributes:
        path: The image file; it may be missing, which is a problem of the data set.
        name: Its path relative to the split's folder of images, with slashes.
        width: In pixels, as training sees it, that is turned as EXIF says; 0 if
            unknown.
        height: Likewise.
        objects: Of detection and instances.
        map: The file of classes by pixel, of segmentation.
        label: The class, of classification.
        source: The annotation file, relative to the root; '' if there is none.
        stated: Width and height that the annotation file gives, or None.
        embedded: The annotation file contains the image, which has no file (LabelMe).
        extra: What else the file says of the image, such as `id` of COCO.
    """

    path: Path
    name: str
    width: int = 0
    height: int = 0
    objects: list[Object] = field(default_factory=list)
    map: Path | None = None
    label: int | None = None
    source: str = ''
    stated: tuple[int, int] | None = None
    embedded: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image that the annotations are of."""
        return self.stated or (self.width, self.height)


@dataclass
class Split:
    """A part of a data set.

    Attributes:
        items: Its images.
        images: The folder that the items' names are relative to.
        annotations: The annotation file (COCO), or the folder of annotation files
            (YOLO, VOC, LabelMe, PNG), or None (class folders).
        source: What the split is called on disk, such as 'valid'; '' if it has no name.
        extra: What else a COCO file says, such as `licenses`.
    """

    items: list[Item]
    images: Path
    annotations: Path | None = None
    source: str = ''
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Maps:
    """How the maps of a segmentation data set mean classes.

    Attributes:
        kind: 'index' (one channel, with a palette or without), 'binary' (0 and 255) or
            'color' (a color is a class).
        classes: The class of each value, or of each color packed as 0xRRGGBB.
        colors: Color of each class, RGB.
        direct: Whether training can read the files as they are, that is whether each
            value is its class (or that plus 1, see `zero_ignored`) or 255.
        zero_ignored: Value 0 has no class, and class i has the value i + 1
            (`reduce_zero_label` of MMSegmentation).
    """

    kind: str
    classes: dict[int, int]
    colors: list[Color]
    direct: bool
    zero_ignored: bool = False


@dataclass
class DataSet:
    """A data set.

    Attributes:
        root: Its folder.
        format: 'coco', 'yolo', 'voc', 'labelme', 'png' or 'folders'.
        task: 'detection' (boxes), 'instances' (boxes, each with a mask),
            'segmentation' (a class per pixel) or 'classification'.
        classes: Names by index.
        splits: By name: 'train', 'val', 'test', in this order; 'train' is the only one
            of a data set without splits.
        faults: Where the problems are collected.
        lost: What the files contain that is not read, one sentence each.
        category_ids: COCO's id of each class; empty for other formats.
        category_extra: What else a COCO file says of categories, by id.
        maps: Of segmentation.
    """

    root: Path
    format: str
    task: str
    classes: list[str]
    splits: dict[str, Split]
    faults: Faults
    lost: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    category_extra: dict[Any, dict[str, Any]] = field(default_factory=dict)
    maps: Maps | None = None

    @property
    def problems(self) -> list[Problem]:
        """The problems found, errors first; one for all faults of a kind."""
        return self.faults.problems()

    @property
    def items(self) -> list[Item]:
        """The items of all splits."""
        return [item for split in self.splits.values() for item in split.items]


def task_of(items: list[Item], faults: Faults) -> str:
    """Return 'instances' if each object has a mask, else 'detection'.

    That some have one is recorded as a fault. Crowds may be without.
    """
    plain = masked = 0
    first: tuple[Item, Object] | None = None
    for item in items:
        for thing in item.objects:
            if thing.masked:
                masked += 1
            elif not thing.crowd:
                plain += 1
                first = first or (item, thing)
    if masked and first:
        detail = f'{plain} of {plain + masked} objects have only a box'
        faults.add('mask-missing', first[0].source, first[1].where, detail)
    return 'instances' if masked and not plain else 'detection'
