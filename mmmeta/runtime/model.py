"""An exported model: from an image to what is found in it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmmeta.errors import InvalidValueError, UserError
from mmmeta.runtime.masks import paste
from mmmeta.runtime.sessions import SESSIONS, Session, open_session


@dataclass(frozen=True)
class Detections:
    """A detector's result, by descending score.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the image.
        scores: float32 (N,).
        labels: int64 (N,), indices of classes.
        masks: bool (N, H, W), or None of a detector without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


@dataclass(frozen=True)
class LabelMap:
    """A segmentor's result.

    Attributes:
        labels: int64 (H, W), indices of classes.
        scores: float32 (classes, H, W) if the file has them, else None.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Probabilities:
    """A classifier's result.

    Attributes:
        values: float32 (classes,).
    """

    values: np.ndarray


Result: TypeAlias = Detections | LabelMap | Probabilities


class FileModel:
    """A model in a file of `mmmeta export`.

    Attributes:
        path: The file.
        task: 'detection', 'segmentation' or 'classification'.
        classes: Names of the classes, by index.
        palette: Their colors, RGB, 0 to 255.
        score_threshold: Below it, detections are not drawn.
        batch_size: How many images it computes at once. Default: 1.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self.session = session
        given = session.metadata
        self.task = given['task']
        self.classes: tuple[str, ...] = tuple(json.loads(given['classes']))
        self.palette: tuple[tuple[int, int, int], ...] = tuple(
            (r, g, b) for r, g, b in json.loads(given['palette'])
        )
        self.score_threshold = float(given.get('score_threshold', 0.3))
        self.batched = 'batch_size' in given
        self.batch_size = int(given.get('batch_size', 1))

    def __call__(self, image: np.ndarray) -> Result:
        """Return what the model finds in an image.

        Args:
            image: uint8 (H, W, 3), RGB, of any size.

        Raises:
            InvalidValueError: It has another shape or dtype.
        """
        return self.run([image])[0]

    def run(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Return what the model finds in several images.

        Args:
            images: uint8 (H, W, 3), RGB. Those of one size that follow each other are
                computed together, up to `batch_size`.

        Raises:
            InvalidValueError: One has another shape or dtype.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise InvalidValueError(
                    f'expected an image, uint8 (H, W, 3), got {image.dtype} '
                    f'{tuple(image.shape)}'
                )
        results: list[Result] = []
        for _, group in groupby(images, lambda image: image.shape):
            same = list(group)
            for start in range(0, len(same), self.batch_size):
                results += self._run(same[start : start + self.batch_size])
        return results

    def _run(self, images: list[np.ndarray]) -> list[Result]:
        given = images[0]
        if self.batched:  # filled up: the file has a fixed number
            given = np.stack(images + images[-1:] * (self.batch_size - len(images)))
        found = self.session.run(np.ascontiguousarray(given))
        size = images[0].shape[:2]
        return [
            to_result(
                self.session.metadata,
                {
                    name: values[i] if self.batched else values
                    for name, values in zip(self.session.outputs, found, strict=True)
                },
                (size[0], size[1]),
            )
            for i in range(len(images))
        ]


def _as_ours(outputs: Mapping[str, np.ndarray], size: Sequence[int]) -> dict:
    """Return outputs for Model API as those of other files."""
    found = dict(outputs)
    if found.keys() == {'scores'}:
        return dict(map=found['scores'].argmax(0))
    if 'bboxes' in found:
        boxes = found.pop('bboxes')
    elif 'boxes' in found and 'scores' not in found:
        boxes = found['boxes']
        found |= dict(scores=boxes[:, 4], labels=found['labels'] + 1)
    else:
        return found
    height, width = size
    relative = np.array([width, height, width, height], np.float32)
    return dict(found, boxes=boxes[:, :4] * relative)


def to_result(
    metadata: Mapping[str, str],
    outputs: Mapping[str, np.ndarray],
    size: tuple[int, int],
) -> Result:
    """Return a model's outputs without padding, and its masks as those of the image.

    Args:
        metadata: The file's.
        outputs: By name.
        size: The image's height and width.
    """
    outputs = _as_ours(outputs, size)
    if metadata['task'] == 'segmentation':
        return LabelMap(outputs['map'], outputs.get('scores'))
    if metadata['task'] == 'classification':
        return Probabilities(outputs['probabilities'])
    there = outputs['labels'] >= 0
    boxes, scores, labels = (
        outputs[name][there] for name in ('boxes', 'scores', 'labels')
    )
    masks = outputs.get('masks')
    if masks is not None:
        threshold = float(metadata.get('mask_threshold', 0.5))
        masks = paste(masks[there], boxes, size, threshold)
    return Detections(boxes, scores, labels, masks)


def is_exported(text: str) -> bool:
    """Whether a path has the suffix of an exported model."""
    return Path(text).suffix in SESSIONS


def open_model(path: str | os.PathLike, device: str | None = None) -> FileModel:
    """Open a file of `mmmeta export`.

    Args:
        path: FILE.onnx, FILE.xml (OpenVINO, with FILE.bin beside it) or FILE.pt2.
        device: 'cpu'; 'cuda' or 'cuda:N' with ONNX Runtime for GPUs, or a .pt2 file.
            Default: None, the CPU.

    Raises:
        MissingLibraryError: Its runtime is not installed; names the extra.
        UserError: It cannot be read, or is not a file of `mmmeta export`.
    """
    file = Path(path)
    device = device or 'cpu'
    if device.partition(':')[0] not in ('cpu', 'cuda'):
        raise UserError(f'device {device!r} is unknown; expected cpu, cuda or cuda:N')
    return FileModel(file, open_session(file, device))
