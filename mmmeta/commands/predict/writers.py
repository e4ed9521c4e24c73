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
    check_files,
    csv_rows,
    make_folder,
    replacing,
    write_whole,
)
from mmmeta.commands.predict.detections import DetectionWriter
from mmmeta.commands.predict.journal import WAITING, Journal, Shard

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
        shard: Shard,
        resume: bool,
    ) -> None:
        self.predictor = predictor
        self.folder, self.table = out_dir / 'maps', out_dir / 'classes.csv'
        check_files([self.table])
        make_folder(self.folder)
        header = dict(classes=list(predictor.classes))
        self.journal = Journal(out_dir, 'maps', header, names, shard, resume)
        self.written = 0  # rows of the table
        self._write_table()

    def add(self, name: str, stem: str, image: np.ndarray, sample: Any) -> None:
        """Write the map of an image as maps/STEM.png.

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
        self.journal.add(dict(file_name=name))
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
        return f'{self.folder} has the maps of {len(self.journal.done)} images'

    def close(self) -> dict[Path, str]:
        """Return descriptions of the files."""
        count = len(self.journal.done)
        if self.journal.finish():
            count = sum(1 for _ in self.journal.records())
            self.journal.remove()
        return {
            self.folder: f'{count} label maps',
            self.table: 'the meaning of their values',
        }


class ClassificationWriter:
    """Writes `top5.csv`: the most likely classes of each image, one per row.

    Until then they are in a journal, `top5.jsonl.part`.

    Raises:
        UserError: It cannot be written.
    """

    def __init__(
        self,
        out_dir: Path,
        predictor: 'Predictor',
        paths: Sequence[Path],
        names: Sequence[str],
        shard: Shard,
        resume: bool,
    ) -> None:
        self.predictor = predictor
        self.table = out_dir / 'top5.csv'
        check_files([self.table])
        header = dict(classes=list(predictor.classes))
        self.journal = Journal(out_dir, 'top5', header, names, shard, resume)

    def add(self, name: str, stem: str, image: np.ndarray, sample: Any) -> str | None:
        """Add the rows of an image; `stem` and `image` are not used.

        Returns:
            A remark if its scores are NaN or infinite, else None.
        """
        classes, scores = self.predictor.classes, self.predictor.probabilities(sample)
        labels = np.argsort(-scores, kind='stable')[:TOP].tolist()
        top = zip(scores[labels].tolist(), labels, strict=True)
        # JSON has no NaN; as text they are read back the same.
        rows = [
            [rank, label, classes[label], repr(score)]
            for rank, (score, label) in enumerate(top, 1)
        ]
        self.journal.add(dict(file_name=name, rows=rows))
        finite = np.isfinite(scores).all()
        return None if finite else 'NaN or infinite among the scores'

    def kept(self) -> str:
        """Say where the results are that were written so far."""
        return f'{self.journal.path} has the rows of {len(self.journal.done)} images'

    def close(self) -> dict[Path, str]:
        """Convert the journals to a table; return a description of what is there."""
        if not self.journal.finish():
            return {self.journal.path: WAITING}
        with replacing(self.table) as file:
            head = csv_rows([['file', 'rank', 'index', 'class', 'score']])
            file.write(head.encode())
            for record in self.journal.records():
                rows = csv_rows([record['file_name'], *row] for row in record['rows'])
                file.write(rows.encode('utf-8', 'surrogateescape'))
        self.journal.remove()
        return {self.table: 'the most likely classes of each image'}


WRITERS = {
    'detection': DetectionWriter,
    'segmentation': SegmentationWriter,
    'classification': ClassificationWriter,
}
