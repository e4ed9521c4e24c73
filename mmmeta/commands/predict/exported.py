"""An exported model in place of a config and a checkpoint, without PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmmeta.runtime import Detections, LabelMap, Probabilities, open_model
from mmmeta.runtime.masks import encode
from mmmeta.runtime.model import Result


class ExportedPredictor:
    """What `predict` uses of a `Predictor`, for a file of `mmmeta export`.

    Args:
        path: The file.
        device: As for `open_model`. Default: the CPU.

    Raises:
        UserError: As for `open_model`.
    """

    channels = 3

    def __init__(self, path: Path, device: str | None = None) -> None:
        self.model = open_model(path, device)
        self.task = self.model.task
        self.classes = self.model.classes
        self.palette = self.model.palette

    def __call__(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Return the results of images, uint8 (H, W, 3), BGR."""
        return self.model.run([image[..., ::-1] for image in images])

    def instances(self, result: Detections) -> dict[str, Any]:
        """Return detections as lists, masks in COCO's encoding."""
        found: dict[str, Any] = dict(
            bboxes=result.boxes.tolist(),
            scores=result.scores.tolist(),
            labels=result.labels.tolist(),
        )
        if result.masks is not None:
            found['masks'] = [encode(mask) for mask in result.masks]
        return found

    def label_map(self, result: LabelMap) -> np.ndarray:
        """Return the classes' indices (H, W)."""
        return result.labels

    def probabilities(self, result: Probabilities) -> np.ndarray:
        """Return the classes' probabilities (classes,)."""
        return result.values

    def draw(
        self, image: np.ndarray, result: Result, score_thr: float = 0.3
    ) -> np.ndarray:
        """Return an image, BGR, with a result drawn on it, BGR."""
        from mmmeta.runtime.drawing import draw

        return draw(self.model, image[..., ::-1], result, score_thr)[..., ::-1]
