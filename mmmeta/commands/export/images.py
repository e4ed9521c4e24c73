"""Images that an exported file is compared or calibrated on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmmeta.commands.predict.inputs import list_images
from mmmeta.errors import UserError
from mmmeta.hosts.images import read_image

MOST_COMPARED = 8
MOST_CALIBRATED = 100


class Calibration(Sequence[np.ndarray]):
    """Images of a folder, evenly spread, read when they are asked for.

    Args:
        folder: Searched recursively; at most `MOST_CALIBRATED` of its images are used.
        batch: Images per call of the model, in which one is repeated; None: no batch.

    Raises:
        UserError: It has no images.
    """

    def __init__(self, folder: str, batch: int | None = None) -> None:
        self.paths = spread(list_images([folder], Path('-')), MOST_CALIBRATED)
        self.batch = batch

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:  # a number: no slices
        path = self.paths[index]
        try:
            image = read_image(path)[..., ::-1]
        except ValueError as error:
            raise UserError(f'--calibrate: {path} cannot be read: {error}') from error
        if self.batch is not None:
            image = np.stack([image] * self.batch)
        return np.ascontiguousarray(image)


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` paths, from all parts of the list."""
    step = max(1, -(-len(paths) // most))
    return list(paths[::step])


def to_compare(folder: str | None) -> list[np.ndarray]:
    """Return images to compare on, uint8 (H, W, 3), BGR.

    Args:
        folder: Where they are; None: a photograph of Matplotlib's, in three shapes.

    Raises:
        UserError: The folder has no images, or one cannot be read.
    """
    if folder is None:
        return _built_in()
    paths = spread(list_images([folder], Path('-')), MOST_COMPARED)
    return [read(path) for path in paths]


def read(path: Path) -> np.ndarray:
    """Return an image, uint8 (H, W, 3), BGR.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return read_image(path)
    except ValueError as error:
        raise UserError(f'{path} cannot be read: {error}') from error


def _built_in() -> list[np.ndarray]:
    import cv2
    from matplotlib.cbook import get_sample_data

    photo = read_image(get_sample_data('grace_hopper.jpg', asfileobj=False))
    wide = cv2.resize(photo[:300], (640, 360), interpolation=cv2.INTER_AREA)
    return [photo, wide, photo[60:300, 100:260].copy()]
