"""Writing predictions: COCO results, label maps, a table."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mmmeta.hosts.predictor import Predictor

TOP = 5


class DetectionWriter:
    """Writes `detections.json` and `images.json` in COCO's formats.

    The first is a list of results, the second defines their ids, so that
    `COCO('images.json').loadRes('detections.json')` works. Images and categories
    count from 1, or have the ids of an annotation file.

    Args:
        out_dir: The output folder.
        predictor: Has the classes.
        names: Names of all images.
        ann_file: A COCO annotation file whose ids are used. Default: None.

    Raises:
        UserError: The annotation file cannot be read, or lacks an image or a class.
    """

    def __init__(
        self,
        out_dir: Path,
        predictor: 'Predictor',
        names: Sequence[str],
        ann_file: str | None = None,
    ) -> None:
        self.out_dir = out_dir
        self.pred2dict = predictor.inferencer.pred2dict
        if ann_file is None:
            self.image_ids = {name: i for i, name in enumerate(names, 1)}
            ids = {name: i for i, name in enumerate(predictor.classes, 1)}
        else:
            self.image_ids, ids = _ids_of(ann_file, names, predictor.classes)
        self.categories = [dict(id=ids[name], name=name) for name in predictor.classes]
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def add(self, name: str, stem: str, image: 'np.ndarray', sample: Any) -> None:
        """Add the detections on an image; `stem` is not used."""
        image_id = self.image_ids[name]
        height, width = image.shape[:2]
        self.images.append(
            dict(id=image_id, file_name=name, width=width, height=height)
        )
        found = self.pred2dict(sample)
        for i, (label, score) in enumerate(
            zip(found['labels'], found['scores'], strict=True)
        ):
            x1, y1, x2, y2 = found['bboxes'][i]
            result = dict(
                image_id=image_id,
                category_id=self.categories[label]['id'],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=score,
            )
            if 'masks' in found:
                result['segmentation'] = found['masks'][i]
            self.results.append(result)

    def close(self) -> dict[Path, str]:
        """Write the files; return descriptions of them."""
        ids = dict(images=self.images, annotations=[], categories=self.categories)
        files = {'detections.json': self.results, 'images.json': ids}
        for name, content in files.items():
            (self.out_dir / name).write_text(json.dumps(content) + '\n')
        return {
            self.out_dir / 'detections.json': f'{len(self.results)} detections',
            self.out_dir / 'images.json': 'the meaning of their ids',
        }


def _ids_of(
    ann_file: str, names: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of images and classes in an annotation file."""
    try:
        content = json.loads(Path(ann_file).read_text())
        images = {image['file_name']: image['id'] for image in content['images']}
        categories = {c['name']: c['id'] for c in content['categories']}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{ann_file} is not a COCO annotation file: {type(error).__name__}: {error}'
        ) from error
    # It may list images with or without their folder.
    found = {n: images.get(n, images.get(n.rpartition('/')[2])) for n in names}
    missing = [name for name, i in found.items() if i is None]
    missing += [name for name in classes if name not in categories]
    if missing:
        raise UserError(f'{ann_file} has no {missing[0]!r} ({len(missing)} such)')
    return found, categories


class SegmentationWriter:
    """Writes a label map for each image, and `classes.csv`.

    A map is a PNG file of the image's size whose values are class indices from 0, with
    the classes' colors as palette, or in 16 bits if there are more than 256 classes.
    """

    def __init__(
        self, out_dir: Path, predictor: 'Predictor', names: Sequence[str]
    ) -> None:
        self.out_dir = out_dir
        self.classes, self.palette = predictor.classes, predictor.palette
        self.count = 0

    def add(self, name: str, stem: str, image: 'np.ndarray', sample: Any) -> None:
        """Write the map of an image as maps/STEM.png; `name` is not used."""
        from PIL import Image

        indices = sample.pred_sem_seg.data[0].cpu().numpy()
        if len(self.classes) <= 256:
            picture = Image.fromarray(indices.astype('uint8'), 'L')
            picture.putpalette([value for color in self.palette for value in color])
        else:
            picture = Image.fromarray(indices.astype('uint16'))
        path = self.out_dir / 'maps' / f'{stem}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        self.count += 1

    def close(self) -> dict[Path, str]:
        """Write the classes; return descriptions of the files."""
        rows = zip(self.classes, self.palette, strict=True)
        _write_csv(
            self.out_dir / 'classes.csv',
            ['index', 'class', 'red', 'green', 'blue'],
            [[index, name, *color] for index, (name, color) in enumerate(rows)],
        )
        return {
            self.out_dir / 'maps': f'{self.count} label maps',
            self.out_dir / 'classes.csv': 'the meaning of their values',
        }


class ClassificationWriter:
    """Writes `top5.csv`: the most likely classes of each image, one per row."""

    def __init__(
        self, out_dir: Path, predictor: 'Predictor', names: Sequence[str]
    ) -> None:
        self.path = out_dir / 'top5.csv'
        self.classes = predictor.classes
        self.rows: list[list[Any]] = []

    def add(self, name: str, stem: str, image: 'np.ndarray', sample: Any) -> None:
        """Add the rows of an image; `stem` and `image` are not used."""
        scores, labels = sample.pred_score.topk(min(TOP, len(self.classes)))
        top = zip(scores.tolist(), labels.tolist(), strict=True)
        for rank, (score, label) in enumerate(top, 1):
            self.rows.append([name, rank, label, self.classes[label], score])

    def close(self) -> dict[Path, str]:
        """Write the table; return a description of it."""
        _write_csv(self.path, ['file', 'rank', 'index', 'class', 'score'], self.rows)
        return {self.path: 'the most likely classes of each image'}


def _write_csv(path: Path, head: list[str], rows: list[list[Any]]) -> None:
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file, lineterminator='\n').writerows([head, *rows])


WRITERS = {
    'detection': DetectionWriter,
    'segmentation': SegmentationWriter,
    'classification': ClassificationWriter,
}
