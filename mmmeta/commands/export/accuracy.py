"""Accuracy on annotated images: of the model, and of the file written from it."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmmeta.commands.predict.detections import ids_in
from mmmeta.errors import UserError
from mmmeta.runtime import Detections, LabelMap, Probabilities
from mmmeta.runtime.masks import encode
from mmmeta.runtime.model import Result

IGNORED = 255  # a pixel without a class


class Measure(Protocol):
    """Collects results and compares them with annotations.

    Attributes:
        paths: The annotated images.
    """

    paths: list[Path]

    def add(self, index: int, result: Result) -> None:
        """Add the result of image `paths[index]`."""
        ...

    def figures(self) -> dict[str, float]:
        """Return the metrics in percent, by name."""
        ...


class BoxMeasure:
    """AP by COCO's evaluation, of boxes, and of masks if there are any."""

    def __init__(
        self, annotations: Path, paths: Sequence[Path], classes: Sequence[str]
    ) -> None:
        from pycocotools.coco import COCO

        self.image_ids, self.category_ids, self.paths = ids_in(
            annotations, paths, classes
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth: Any = COCO(annotations)
        self.found: dict[str, list[dict]] = {'bbox': [], 'segm': []}

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, Detections)
        for i, (x1, y1, x2, y2) in enumerate(result.boxes.tolist()):
            base = dict(
                image_id=self.image_ids[index],
                category_id=self.category_ids[int(result.labels[i])],
                score=float(result.scores[i]),
            )
            self.found['bbox'].append(dict(base, bbox=[x1, y1, x2 - x1, y2 - y1]))
            if result.masks is not None:
                mask = encode(result.masks[i])
                self.found['segm'].append(dict(base, segmentation=mask))

    def figures(self) -> dict[str, float]:
        from pycocotools.cocoeval import COCOeval

        figures = {}
        for kind, name in (('bbox', 'box AP'), ('segm', 'mask AP')):
            if not self.found[kind]:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                results = self.truth.loadRes(self.found[kind])
                evaluation = COCOeval(self.truth, results, kind)
                evaluation.params.imgIds = self.image_ids
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            figures[name] = 100 * float(evaluation.stats[0])
        return figures or {'box AP': 0.0}


class MapMeasure:
    """Mean IoU of the classes that are in the maps or were found."""

    def __init__(
        self,
        annotations: Path,
        paths: Sequence[Path],
        classes: Sequence[str],
        reduce_zero_label: bool,
    ) -> None:
        maps = {path.stem: path for path in annotations.glob('*.png')}
        self.paths = [path for path in paths if path.stem in maps]
        self.maps = [maps[path.stem] for path in self.paths]
        self.reduce_zero_label = reduce_zero_label
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, index: int, result: Result) -> None:
        from PIL import Image

        assert isinstance(result, LabelMap)
        with Image.open(self.maps[index]) as file:
            truth = np.array(file).astype(np.int64)
        if truth.shape != result.labels.shape:
            raise UserError(
                f'{self.maps[index]} has the shape {truth.shape}, its image '
                f'{result.labels.shape}'
            )
        if self.reduce_zero_label:
            truth = np.where(truth == 0, IGNORED, truth - 1)
        there = truth < len(self.counts)
        pairs = truth[there] * len(self.counts) + result.labels[there]
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(
            self.counts.shape
        )

    def figures(self) -> dict[str, float]:
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        ious = self.counts.diagonal()[union > 0] / union[union > 0]
        return {'mIoU': 100 * float(ious.mean())}


class ClassMeasure:
    """Top-1 accuracy of images in folders that have the names of the classes."""

    def __init__(
        self, annotations: Path, paths: Sequence[Path], classes: Sequence[str]
    ) -> None:
        index = {name: i for i, name in enumerate(classes)}
        self.paths = [path for path in paths if path.parent.name in index]
        self.labels = [index[path.parent.name] for path in self.paths]
        self.right: list[bool] = []

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, Probabilities)
        self.right.append(int(result.values.argmax()) == self.labels[index])

    def figures(self) -> dict[str, float]:
        return {'top-1': 100 * float(np.mean(self.right))}


def make_measure(annotations: Path, paths: Sequence[Path], predictor: Any) -> Measure:
    """Return what measures a task's accuracy.

    Args:
        annotations: COCO's JSON for a detector, a folder of PNG maps with the images'
            names for a segmentor, the folder of the classes' folders for a classifier.
        paths: The images.
        predictor: Has the task, the classes and the config.

    Raises:
        UserError: They cannot be read, or none belongs to the images.
    """
    measure: Measure
    if not annotations.exists():
        raise UserError(f'--annotations {annotations}: no such file or folder')
    if annotations.is_dir() == (predictor.task == 'detection'):
        raise UserError(
            f'--annotations {annotations}: expected a COCO JSON file for a detector, a '
            'folder of PNG maps for a segmentor or of class folders for a classifier'
        )
    if predictor.task == 'detection':
        measure = BoxMeasure(annotations, paths, predictor.classes)
    elif predictor.task == 'segmentation':
        measure = MapMeasure(
            annotations, paths, predictor.classes, _reduces(predictor.config)
        )
    else:
        measure = ClassMeasure(annotations, paths, predictor.classes)
    if not measure.paths:
        raise UserError(f'--annotations {annotations} has none of the images')
    return measure


def _reduces(config: Any) -> bool:
    """Whether the config's maps have no class at 0."""
    dataset = config.test_dataloader.dataset
    steps = [s for s in dataset.pipeline if 'LoadAnnotations' in str(s['type'])]
    given = [step.get('reduce_zero_label') for step in steps]
    return bool(dataset.get('reduce_zero_label') or any(given))
