"""Writing predictions: label maps, a table, and detections (in `detections`).

Each image's results are written before the next image is read, so that a run that ends
early loses nothing.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmmeta.commands.files import (
    Lines,
    check_files,
    csv_rows,
    make_folder,
    write_whole,
)
from mmmeta.commands.predict.detections import DetectionWriter

if TYPE_CHECKING:
    from mmmeta.hosts.predictor import Predictor

TOP = 5


class SegmentationWriter:
    """Writes a label map for each image, and `classes.csv`.

    A map is a PNG file of the image's size whose values are class indices from 0, with
    the classes' colors as palette, or in 16 bits if there are more than 256 classes.

    Raises:
        UserError: The files cannot be written.
    """

    def __init__(
        self,
        out_dir: Path,
        predictor: 'Predictor',
        paths: Sequence[Path],
        names: Sequence[str],
    ) -> None:
        self.predictor = predictor
        self.folder, self.table = out_dir / 'maps', out_dir / 'classes.csv'
        check_files([self.table])
        make_folder(self.folder)
        self.count = 0
        self.written = 0  # rows of the table
        self._write_table()

    def add(self, name: str, stem: str, image: np.ndarray, sample: Any) -> None:
        """Write the map of an image as maps/STEM.png; `name` is not used.

        Raises:
            ValueError: Its values are not indices that a PNG file can represent.
        """
        from PIL import Image

        values = self.predictor.label_map(sample)
        low, high = values.min(), values.max()
        if not (low >= 0 and high < 1 << 16):
            raise ValueError(f'values from {low} to {high}, expected 0 to 65535')
        if len(self.predictor.classes) <= 256:
            picture = Image.fromarray(values.astype('uint8'))
            colors = [value for color in self.predictor.palette for value in color]
            # A full palette: with a short one Pillow truncates values to fewer bits.
            picture.putpalette(colors + [0] * (768 - len(colors)))
        else:
            picture = Image.fromarray(values.astype('uint16'))
        data = io.BytesIO()
        picture.save(data, 'png')
        write_whole(self.folder / f'{stem}.png', data.getvalue())
        self.count += 1
        if len(self.predictor.classes) > self.written:
            self._write_table()

    def _write_table(self) -> None:
        classes, palette = self.predictor.classes, self.predictor.palette
        rows = [
            [index, name, *color]
            for index, (name, color) in enumerate(zip(classes, palette, strict=True))
        ]
        text = csv_rows([['index', 'class', 'red', 'green', 'blue'], *rows])
        write_whole(self.table, text.encode('utf-8', 'surrogateescape'))
        self.written = len(classes)

    def kept(self) -> str:
        """Say where the results are that were written so far."""
        return f'{self.folder} has the maps of {self.count} images'

    def close(self) -> dict[Path, str]:
        """Return descriptions of the files."""
        return {
            self.folder: f'{self.count} label maps',
            self.table: 'the meaning of their values',
        }


class ClassificationWriter:
    """Writes `top5.csv`: the most likely classes of each image, one per row.

    Raises:
        UserError: It cannot be written.
    """

    def __init__(
        self,
        out_dir: Path,
        predictor: 'Predictor',
        paths: Sequence[Path],
        names: Sequence[str],
    ) -> None:
        self.predictor = predictor
        self.lines = Lines(out_dir / 'top5.csv')
        self.lines.write(csv_rows([['file', 'rank', 'index', 'class', 'score']]))
        self.count = 0

    def add(self, name: str, stem: str, image: np.ndarray, sample: Any) -> str | None:
        """Add the rows of an image; `stem` and `image` are not used.

        Returns:
            A remark if its scores are NaN or infinite, else None.
        """
        classes, scores = self.predictor.classes, self.predictor.probabilities(sample)
        labels = np.argsort(-scores, kind='stable')[:TOP].tolist()
        top = zip(scores[labels].tolist(), labels, strict=True)
        rows = [
            [name, rank, label, classes[label], score]
            for rank, (score, label) in enumerate(top, 1)
        ]
        self.lines.write(csv_rows(rows))
        self.count += 1
        finite = np.isfinite(scores).all()
        return None if finite else 'NaN or infinite among the scores'

    def kept(self) -> str:
        """Say where the results are that were written so far."""
        return f'{self.lines.path} has the rows of {self.count} images'

    def close(self) -> dict[Path, str]:
        """Return a description of the table."""
        self.lines.close()
        return {self.lines.path: 'the most likely classes of each image'}


WRITERS = {
    'detection': DetectionWriter,
    'segmentation': SegmentationWriter,
    'classification': ClassificationWriter,
}
