"""Runs models on images, one model in memory at a time.

A model is loaded by what it needs: PyTorch and a host library for a config and its
checkpoint, a runtime alone for an exported file.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mmmeta.commands.demo.found import Model
from mmmeta.runtime import open_model
from mmmeta.runtime.model import Result


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for an image, with no reference to the model.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        result: What was found in it.
        classes: Names by index.
        palette: Their colors, RGB, 0 to 255.
        seconds: How long the model took, after a warm-up.
        device: Where it ran, such as 'cpu'.
        input_size: Height and width of the network's input, in pixels; None if unknown.
    """

    image: np.ndarray
    result: Result
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    seconds: float
    device: str
    input_size: tuple[int, int] | None


class Loaded(Protocol):
    """A model in memory.

    Attributes:
        device: Where it runs.
        input_size: Height and width of the network's last input; None if unknown.
    """

    device: str
    input_size: tuple[int, int] | None

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]: ...

    def __call__(self, image: np.ndarray) -> Result:
        """Return what the model finds in an image, uint8 (H, W, 3), RGB."""
        ...


class Engine:
    """Keeps the last model used, and runs one at a time.

    Args:
        device: Such as 'cpu' or 'cuda:0'. Default: a GPU if available, but the CPU for
            exported files.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self._model: Model | None = None
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()
        self._warm: set[tuple[int, ...]] = set()  # sizes of images the model has seen

    def predict(self, model: Model, image: np.ndarray) -> Prediction:
        """Run a model on an image, uint8 (H, W, 3), RGB.

        Raises:
            UserError: The model cannot be built, or there is no such device.
            CheckpointError: The checkpoint cannot be obtained or does not fit.
        """
        with self._lock:
            return self._predict(model, image)

    def _predict(self, model: Model, image: np.ndarray) -> Prediction:
        loaded = self._load(model)
        if image.shape not in self._warm:
            loaded(image)
            self._warm.add(image.shape)
        start = time.perf_counter()
        result = loaded(image)
        seconds = time.perf_counter() - start
        return Prediction(
            image,
            result,
            loaded.classes,
            loaded.palette,
            seconds,
            loaded.device,
            loaded.input_size,
        )

    def _load(self, model: Model) -> Loaded:
        if self._loaded is not None and model == self._model:
            return self._loaded
        # Free the old one first: memory may not suffice for two.
        self._model = self._loaded = None
        self._warm.clear()
        kind = Exported if model.checkpoint is None else Trained
        loaded: Loaded = kind(model, self.device)
        self._model, self._loaded = model, loaded
        return loaded


class Exported:
    """A file of `mmmeta export`, without PyTorch and the host libraries."""

    input_size: tuple[int, int] | None = None

    def __init__(self, model: Model, device: str | None) -> None:
        self.device = device or 'cpu'
        self.model = open_model(Path(model.config), self.device)
        self.classes = self.model.classes
        self.palette = self.model.palette

    def __call__(self, image: np.ndarray) -> Result:
        return self.model(image)


class Trained:
    """A config with its checkpoint, in its host library."""

    input_size: tuple[int, int] | None = None

    def __init__(self, model: Model, device: str | None) -> None:
        import torch

        from mmmeta.hosts.predictor import build_predictor, pick_device

        assert model.checkpoint is not None
        self.device = pick_device(device)
        if self.device.startswith('cuda'):
            torch.cuda.empty_cache()
        self.predictor = build_predictor(model.config, model.checkpoint, self.device)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictor.classes  # more, once a result has had more

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return self.predictor.palette

    def __call__(self, image: np.ndarray) -> Result:
        batch = self.predictor.prepare([image[..., ::-1]])
        height, width = batch['inputs'][0].shape[-2:]
        self.input_size = height, width
        (sample,) = self.predictor.forward(batch)
        # On the CPU, and so after everything that a GPU was told to do.
        return self.predictor.result(sample)
