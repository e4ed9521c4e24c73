"""Runs models on images, one model in memory at a time."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmmeta.commands.demo.found import Model
from mmmeta.hosts.predictor import Predictor, build_predictor, pick_device


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for an image, with no reference to the model.

    Attributes:
        task: 'detection', 'segmentation' or 'classification'.
        image: uint8 (H, W, 3), BGR.
        sample: The host library's data sample, on the CPU.
        classes: Names by index.
        palette: Their colors, RGB, 0 to 255.
        seconds: How long the model took, after a warm-up.
        device: Where it ran, such as 'cpu'.
        input_size: Height and width of the model's input, in pixels.
    """

    task: str
    image: np.ndarray
    sample: Any
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    seconds: float
    device: str
    input_size: tuple[int, int]


class Engine:
    """Keeps the last model used, and runs one at a time.

    Args:
        device: Such as 'cpu' or 'cuda:0'. Default: a GPU if available.

    Raises:
        UserError: There is no such device.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = pick_device(device)
        self._model: Model | None = None
        self._predictor: Predictor | None = None
        self._lock = threading.Lock()
        self._warm: set[tuple[int, ...]] = set()  # input shapes the model has seen

    def predict(self, model: Model, image: np.ndarray) -> Prediction:
        """Run a model on an image, uint8 (H, W, 3), BGR.

        Raises:
            UserError: The model cannot be built.
            CheckpointError: The checkpoint cannot be obtained or does not fit.
        """
        with self._lock:
            return self._predict(model, image)

    def _predict(self, model: Model, image: np.ndarray) -> Prediction:
        predictor = self._load(model)
        batch = predictor.prepare([image])
        shape = batch['inputs'][0].shape
        if shape not in self._warm:
            self._forward(predictor, batch)
            self._warm.add(shape)
        start = time.perf_counter()
        sample = self._forward(predictor, batch)
        seconds = time.perf_counter() - start
        return Prediction(
            model.task,
            image,
            sample.cpu(),
            predictor.classes,
            predictor.palette,
            seconds,
            self.device,
            tuple(shape[-2:]),
        )

    def _forward(self, predictor: Predictor, batch: dict) -> Any:
        """Return the data sample of a batch of one, after synchronizing the device."""
        (sample,) = predictor.forward(batch)
        if self.device.startswith('cuda'):
            torch.cuda.synchronize(self.device)
        return sample

    def _load(self, model: Model) -> Predictor:
        if self._predictor is not None and model == self._model:
            return self._predictor
        # Free the old one first: memory may not suffice for two.
        self._model = self._predictor = None
        self._warm.clear()
        if self.device.startswith('cuda'):
            torch.cuda.empty_cache()
        predictor = build_predictor(model.config, model.checkpoint, self.device)
        self._model, self._predictor = model, predictor
        return predictor
