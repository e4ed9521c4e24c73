"""Writing detections in COCO's formats, line by line until the run is complete."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.commands.files import check_files, replacing
from mmmeta.commands.predict.journal import WAITING, Journal, Shard
from mmmeta.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.hosts.predictor import Predictor


class DetectionWriter:
    """Writes `detections.json` and `images.json` in COCO's formats.

    The first is a list of results, the second defines their ids, so that
    `COCO('images.json').loadRes('detections.json')` works. Images and categories
    count from 1, or have the ids of an annotation file.

    Until then the results are in a journal, `detections.jsonl.part`, which begins with
    the categories.

    Args:
        out_dir: The output folder.
        predictor: Has the classes.
        paths: Paths of all images.
        names: Their names, without duplicates.
        shard: Which of them are predicted here.
        resume: Keep the results of an earlier run.
        ann_file: A COCO annotation file whose ids are used. Default: None.

    Raises:
        UserError: The annotation file cannot be read, lacks an image or a class, or
            has the same id for two of them; or the files cannot be written.
    """

    def __init__(
        self,
        out_dir: Path,
        predictor: 'Predictor',
        paths: Sequence[Path],
        names: Sequence[str],
        shard: Shard,
        resume: bool,
        ann_file: str | None = None,
    ) -> None:
        self.files = [out_dir / 'detections.json', out_dir / 'images.json']
        check_files(self.files)
        self.predictor = predictor
        self.category_ids: list[int] | None = None  # from 1
        if ann_file is None:
            self.image_ids = {name: i for i, name in enumerate(names, 1)}
        else:
            content = _read_annotations(ann_file)
            self.image_ids = _image_ids(content, ann_file, paths, names)
            self.category_ids = _category_ids(content, ann_file, predictor.classes)
        header = dict(categories=self._categories())
        self.journal = Journal(out_dir, 'detections', header, names, shard, resume)

    def _categories(self) -> list[dict[str, Any]]:
        classes = self.predictor.classes
        ids = self.category_ids or range(1, len(classes) + 1)
        return [dict(id=i, name=n) for i, n in zip(ids, classes, strict=False)]

    def add(self, name: str, stem: str, image: 'np.ndarray', sample: Any) -> str | None:
        """Add the detections on an image; `stem` is not used.

        Returns:
            What was omitted because COCO's format cannot represent it, or None.
        """
        found = self.predictor.instances(sample)
        detections, left_out = [], []
        for i, (label, score) in enumerate(
            zip(found['labels'], found['scores'], strict=True)
        ):
            x1, y1, x2, y2 = found['bboxes'][i]
            if not all(map(math.isfinite, (x1, y1, x2, y2, score))):
                left_out.append('NaN or infinite in box or score')
                continue
            category = self._category_id(label)
            if category is None:
                left_out.append(f'no class {label}')
                continue
            result = dict(
                category_id=category, bbox=[x1, y1, x2 - x1, y2 - y1], score=score
            )
            if 'masks' in found:
                result['segmentation'] = found['masks'][i]
            detections.append(result)
        height, width = image.shape[:2]
        self.journal.add(
            dict(
                id=self.image_ids[name],
                file_name=name,
                width=width,
                height=height,
                detections=detections,
            )
        )
        if not left_out:
            return None
        return (
            f'{len(left_out)} of {len(found["labels"])} detections omitted '
            f'({", ".join(dict.fromkeys(left_out))})'
        )

    def _category_id(self, label: float) -> int | None:
        if label != int(label) or label < 0:
            return None
        if self.category_ids is None:
            return int(label) + 1
        in_file = label < len(self.category_ids)
        return self.category_ids[int(label)] if in_file else None

    def kept(self) -> str:
        """Return where the results written so far are."""
        journal = self.journal
        return f'{journal.path} has the detections of {len(journal.done)} images'

    def close(self) -> dict[Path, str]:
        """Convert the journals to COCO's files; return what is there."""
        if not self.journal.finish():
            return {self.journal.path: WAITING}
        images, count = [], 0
        with replacing(self.files[0]) as results, replacing(self.files[1]) as ids:
            results.write(b'[')
            for record in self.journal.records():
                for detection in record.pop('detections'):
                    result = dict(image_id=record['id'], **detection)
                    text = f'{", " if count else ""}{json.dumps(result)}'
                    results.write(text.encode())
                    count += 1
                images.append(record)
            results.write(b']\n')
            content = dict(images=images, annotations=[], categories=self._categories())
            ids.write(f'{json.dumps(content)}\n'.encode())
        self.journal.remove()
        return {
            self.files[0]: f'{count} detections',
            self.files[1]: 'the meaning of their ids',
        }


# -- ids of an annotation file ----------------------------------------------------


def ids_in(
    ann_file: str | os.PathLike, paths: Sequence[Path], classes: Sequence[str]
) -> tuple[list[int], list[int], list[Path]]:
    """Return the ids of annotated images and of classes.

    Args:
        ann_file: A COCO annotation file.
        paths: Images; those that it does not have are left out.
        classes: The model's.

    Returns:
        Ids of images, ids of the classes, and the images that it has.

    Raises:
        UserError: It cannot be read, or lacks a class.
    """
    name = os.fspath(ann_file)
    content = _read_annotations(name)
    known = [
        (path, way) for path in paths if (way := _known(path, content)) is not None
    ]
    ids = [content['images'][way] for _, way in known]
    return ids, _category_ids(content, name, classes), [path for path, _ in known]


def _known(path: Path, content: Mapping[str, Mapping[str, int]]) -> str | None:
    """Return the name by which the file lists an image, with or without folders."""
    parts = os.path.abspath(path).split('/')
    ways = ('/'.join(parts[i:]) for i in range(len(parts)))
    return next((way for way in ways if way in content['images']), None)


def _read_annotations(ann_file: str) -> dict[str, dict[Any, Any]]:
    """Return the ids of images and classes in an annotation file, by name.

    Raises:
        UserError: It cannot be read, or has duplicate names.
    """
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
        pairs = {
            'images': [(i['file_name'], i['id']) for i in content['images']],
            'categories': [(c['name'], c['id']) for c in content['categories']],
        }
        ids = {key: dict(value) for key, value in pairs.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{ann_file} is not a COCO annotation file: {type(error).__name__}: {error}'
        ) from error
    for key, value in pairs.items():
        odd = [
            i for _, i in value if isinstance(i, bool) or not isinstance(i, int | str)
        ]
        if odd:
            raise UserError(
                f'{ann_file}: {key} has the id {odd[0]!r}; expected an integer'
            )
        _check_unique([name for name, _ in value], f'{ann_file}: {key} has')
    return ids


def _check_unique(names: Sequence[str], what: str) -> None:
    name, number = next(iter(Counter(names).most_common(1)), ('', 0))
    if number > 1:
        raise UserError(
            f'{what} {name!r} {number} times: --ann-file cannot distinguish them'
        )


def _image_ids(
    content: Mapping[str, Mapping[str, int]],
    ann_file: str,
    paths: Sequence[Path],
    names: Sequence[str],
) -> dict[str, int]:
    """Return the ids of the images by name."""
    ids: dict[str, int] = {}
    owner: dict[int, str] = {}
    missing = []
    for path, name in zip(paths, names, strict=True):
        known = _known(path, content)
        if known is None:
            missing.append(name)
            continue
        ids[name] = content['images'][known]
        other = owner.setdefault(ids[name], name)
        if other != name:
            raise UserError(
                f'{ann_file} has the same id, {ids[name]}, for {other!r} and {name!r}; '
                'expected different file names, or only one of them as input'
            )
    _check_missing(missing, ann_file)
    return ids


def _category_ids(
    content: Mapping[str, Mapping[str, int]], ann_file: str, classes: Sequence[str]
) -> list[int]:
    _check_unique(classes, 'the model has the class')
    _check_missing([n for n in classes if n not in content['categories']], ann_file)
    return [content['categories'][name] for name in classes]


def _check_missing(missing: Sequence[str], ann_file: str) -> None:
    if missing:
        raise UserError(f'{ann_file} has no {missing[0]!r} ({len(missing)} such)')
