"""Every kind of fault, and their collection: one problem for all faults of a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

ERROR, WARNING = 'error', 'warning'


@dataclass(frozen=True)
class Problem:
    """One or more faults of a kind.

    Attributes:
        kind: A key of `KINDS`.
        severity: 'error': training would fail or learn something wrong; else 'warning'.
        path: The file or folder of the first one, relative to the data set's root.
        count: How many there are.
        text: One line: what is wrong, where, what is expected, what to do.
    """

    kind: str
    severity: str
    path: str
    count: int
    text: str


class Kind(NamedTuple):
    """How severe a kind is, what one and many are called, and what is expected."""

    severity: str
    one: str
    many: str
    expected: str


KINDS = {
    # Images
    'image-missing': Kind(
        ERROR,
        'image missing',
        'images missing',
        'each annotated image must be there: add it or delete its annotations',
    ),
    'image-unreadable': Kind(
        ERROR,
        'image that cannot be read',
        'images that cannot be read',
        'replace the file or delete it and its annotations',
    ),
    'image-huge': Kind(
        ERROR,
        'image with too many pixels',
        'images with too many pixels',
        'cut it into tiles, or raise MMMETA_MAX_PIXELS',
    ),
    'image-path': Kind(
        ERROR,
        'image found only under its bare name',
        'images found only under their bare names',
        'the path in the annotations must exist: correct it, or write a correct data '
        'set with --to coco',
    ),
    'image-embedded': Kind(
        WARNING,
        'image that is only inside of its annotation file',
        'images that are only inside of their annotation files',
        '--to coco writes it as a file',
    ),
    'image-twice': Kind(
        ERROR,
        'image listed twice',
        'images listed twice',
        'each image must be listed once: join its annotations',
    ),
    'image-stems': Kind(
        WARNING,
        'image whose name differs from another only by the suffix',
        'images whose names differ from another only by the suffix',
        'both share one annotation file: rename one of them',
    ),
    'image-unused': Kind(
        WARNING,
        'image without annotations, which is not used',
        'images without annotations, which are not used',
        'annotate it or ignore this',
    ),
    'image-turned': Kind(
        WARNING,
        'image that EXIF turns',
        'images that EXIF turns',
        'annotations are taken to belong to the turned image, which training sees: '
        'check the picture, or store the pixels upright',
    ),
    'size-turned': Kind(
        ERROR,
        'image annotated before EXIF turns it',
        'images annotated before EXIF turns them',
        'training sees the turned image: store the pixels as they were annotated, '
        'without EXIF orientation',
    ),
    'size-differs': Kind(
        ERROR,
        'image of another size than its annotations say',
        'images of another size than their annotations say',
        'the image was probably resized: annotate this one or restore the original',
    ),
    'split-overlap': Kind(
        ERROR,
        'image that is in two splits',
        'images that are in two splits',
        'results on images seen in training are too good: keep it in one split',
    ),
    # Objects
    'box-empty': Kind(
        ERROR,
        'box without area',
        'boxes without area',
        'width and height must be above 0: correct or delete it',
    ),
    'box-outside': Kind(
        ERROR,
        'box outside of its image',
        'boxes outside of their images',
        'correct or delete it',
    ),
    'box-over-edge': Kind(
        WARNING,
        'box that is partly outside of its image',
        'boxes that are partly outside of their images',
        'training clips it',
    ),
    'box-missing': Kind(
        ERROR,
        'object without a valid box',
        'objects without a valid box',
        'expected x, y, width and height in pixels',
    ),
    'object-twice': Kind(
        WARNING,
        'object that is annotated twice',
        'objects that are annotated twice',
        'the same class and the same outline: delete one',
    ),
    'label-range': Kind(
        ERROR,
        'label out of range',
        'labels out of range',
        'correct the label or add the class to the names',
    ),
    'mask-size': Kind(
        ERROR,
        'mask of another size than its image',
        'masks of another size than their images',
        'the image was probably resized: restore the original or resize the mask '
        'without interpolation',
    ),
    'mask-invalid': Kind(
        ERROR,
        'mask that is not valid',
        'masks that are not valid',
        'expected outlines of at least 3 points, or RLE: correct or delete it',
    ),
    'mask-missing': Kind(
        WARNING,
        'only a part of the objects have a mask',
        'only a part of the objects have a mask',
        'it is read as boxes: add the masks for instance segmentation',
    ),
    'coordinate-range': Kind(
        ERROR,
        'coordinate outside of 0 to 1',
        'coordinates outside of 0 to 1',
        "expected fractions of the image's width and height: divide pixels by these",
    ),
    'origin': Kind(
        WARNING,
        'box that begins at 0',
        'boxes that begin at 0',
        "Pascal VOC's first pixel is 1: all coordinates are read as counted from 0; "
        'MMDetection would shift them by a pixel: use --to coco',
    ),
    # Files of annotations
    'file-missing': Kind(
        ERROR,
        'file or folder missing',
        'files or folders missing',
        'correct the path or add the files',
    ),
    'file-unreadable': Kind(
        ERROR,
        'annotation file that cannot be read',
        'annotation files that cannot be read',
        'correct or restore it',
    ),
    'line-unreadable': Kind(
        ERROR,
        'line that cannot be read',
        'lines that cannot be read',
        'expected a class and 4 numbers (x y width height), or a class and at least 3 '
        'points (x y)',
    ),
    'annotation-alone': Kind(
        ERROR,
        'annotation file without an image',
        'annotation files without an image',
        'names must agree: rename it, add the image or delete it',
    ),
    'file-unused': Kind(
        WARNING,
        'file that was not read',
        'files that were not read',
        'give its path to read it instead',
    ),
    'encoding': Kind(
        WARNING,
        'text file in another encoding than UTF-8',
        'text files in another encoding than UTF-8',
        'other tools may misread it: save it as UTF-8 without BOM',
    ),
    'id-missing': Kind(
        ERROR,
        'id missing or unknown',
        'ids missing or unknown',
        'each image, annotation and category needs an id, and annotations those of '
        'an image and a category',
    ),
    'id-twice': Kind(
        ERROR,
        'id that repeats',
        'ids that repeat',
        'ids must be unique: one of the two would be lost; number them anew',
    ),
    # Maps
    'map-missing': Kind(
        ERROR,
        'image without a map',
        'images without a map',
        'each image of a split needs one of the same name: add it or move the image',
    ),
    'map-unreadable': Kind(
        ERROR,
        'map that cannot be read',
        'maps that cannot be read',
        'replace it or delete it and its image',
    ),
    'map-binary': Kind(
        ERROR,
        'maps have the values 0 and 255',
        'maps have the values 0 and 255',
        'these are read as background and foreground, but training ignores 255: '
        '--to png writes 0 and 1',
    ),
    'map-gaps': Kind(
        ERROR,
        'maps have other values than 0, 1, 2, ...',
        'maps have other values than 0, 1, 2, ...',
        'each value is read as a class, but training needs indices: --to png writes '
        'them',
    ),
    'map-colors': Kind(
        ERROR,
        'maps have colors',
        'maps have colors',
        'each color is read as a class, but training needs indices: --to png writes '
        'them',
    ),
    'map-lossy': Kind(
        ERROR,
        'map with too many colors or values',
        'maps with too many colors or values',
        'it is a photograph, or was smoothed or saved as JPEG: export it as PNG',
    ),
    # Classes and splits
    'class-empty': Kind(
        WARNING,
        'class that does not occur in the training images',
        'classes that do not occur in the training images',
        'it cannot be learned: add examples or delete it',
    ),
    'class-twice': Kind(
        WARNING,
        'class name that repeats',
        'class names that repeat',
        'names that are equal up to case and spaces are easily confused: rename one',
    ),
    'class-count': Kind(
        ERROR,
        'number of classes that differs',
        'numbers of classes that differ',
        'all parts of a data set must agree on its classes',
    ),
    'class-new': Kind(
        ERROR,
        'class that is not in the training split',
        'classes that are not in the training split',
        'each split needs the same class folders (they may be empty): the index of a '
        'class is its place among them',
    ),
    'split-empty': Kind(
        ERROR, 'split without images', 'splits without images', 'add images'
    ),
}


class Faults:
    """Collects faults; one problem for all of a kind."""

    def __init__(self) -> None:
        # Of each kind: the number, and of the first one path, place, detail, severity.
        self._found: dict[str, tuple[int, str, str, str, str]] = {}

    def add(
        self,
        kind: str,
        path: str,
        where: str = '',
        detail: str = '',
        severity: str = '',
    ) -> None:
        """Record a fault.

        Args:
            kind: A key of `KINDS`.
            path: The file, relative to the data set's root; '' for the root.
            where: The place in it, such as 'line 3'. Default: the whole file.
            detail: What was found there. Default: nothing.
            severity: Default: the kind's.
        """
        severity = severity or KINDS[kind].severity
        known = self._found.get(kind)
        if known is None:
            self._found[kind] = (1, path, where, detail, severity)
        else:
            # An error is not hidden by a mild one before it.
            worst = ERROR if severity == ERROR else known[4]
            self._found[kind] = (known[0] + 1, *known[1:4], worst)

    def problems(self) -> list[Problem]:
        """Return a problem for each kind, errors first."""
        found = []
        for kind, (count, path, where, detail, severity) in self._found.items():
            row = KINDS[kind]
            place = f'{path} {where}'.strip()
            detail = f' ({detail})' if detail else ''
            if count == 1:
                text = f'{place}: {row.one}' if place else row.one
            else:
                text = f'{count:,} {row.many}, first: {place or "the data set"}'
            text = f'{text}{detail}; {row.expected}'
            problem = Problem(kind, severity, path, count, text)
            found.append(problem)
        return sorted(found, key=lambda problem: problem.severity != ERROR)
