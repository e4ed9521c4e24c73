"""Failures of single images that do not stop the others."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmmeta.commands.files import DiskError, disk_errors
from mmmeta.errors import one_line, printable


class Failures:
    """Collects errors by image, to list them at the end."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._images: set[str] = set()

    def __len__(self) -> int:
        """Return how many images failed, in one step or several."""
        return len(self._images)

    def add(self, path: Path | str, error: BaseException, step: str = '') -> None:
        """Record that an image failed, with the `step` if it is not the first."""
        if os.environ.get('MMMETA_DEBUG') == '1':
            traceback.print_exception(error)
        self._images.add(str(path))
        self._lines.append(f'{path}: {step}{": " if step else ""}{one_line(error)}')

    @contextmanager
    def of(
        self,
        path: Path | str,
        step: str = '',
        ends: tuple[type[Exception], ...] = (),
    ) -> Iterator[None]:
        """Record any error inside as a failure of this image only.

        Args:
            path: The image.
            step: The step that failed, if not the first.
            ends: Errors that would affect all images; raised like those of the disk.

        Raises:
            DiskError: The disk is full.
        """
        try:
            with disk_errors():
                yield
        except Exception as error:  # from the user's pipeline, model or image
            if isinstance(error, (DiskError, *ends)):
                raise
            self.add(path, error, step)

    def report(self, total: int, remark: str = '') -> int:
        """List the images that failed, one per line; return the exit status.

        Args:
            total: Number of images.
            remark: Text at the end of the last line. Default: nothing.
        """
        for line in self._lines:
            print(printable(line), file=sys.stderr)
        if self._images:
            print(f'{len(self)} of {total} images failed{remark}', file=sys.stderr)
        return 1 if self._images else 0
