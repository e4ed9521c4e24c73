"""What went wrong with some images, while the others went on."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmmeta.commands.files import DiskError, disk_errors
from mmmeta.errors import one_line, printable


class Failures:
    """Collects errors by image, to be named at the end."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._images: set[str] = set()

    def __len__(self) -> int:
        """Return how many images failed, in one step or several."""
        return len(self._images)

    def add(self, path: Path | str, error: BaseException, step: str = '') -> None:
        """Note that an image failed; `step` says in what, where it is not the first."""
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
        """Let an error inside cost this image alone, whatever it is.

        Args:
            path: The image.
            step: In what it failed, where that is not the first step.
            ends: Errors that all images would meet, raised beside those of the disk.

        Raises:
            DiskError: The disk is full.
        """
        try:
            with disk_errors():
                yield
        except Exception as error:  # of the user's pipeline, model or image
            if isinstance(error, (DiskError, *ends)):
                raise
            self.add(path, error, step)

    def report(self, total: int, remark: str = '') -> int:
        """Name the images that failed, a line each; return the exit status.

        Args:
            total: How many images there were.
            remark: Said at the end of the last line. Default: nothing.
        """
        for line in self._lines:
            print(printable(line), file=sys.stderr)
        if self._images:
            print(f'{len(self)} of {total} images failed{remark}', file=sys.stderr)
        return 1 if self._images else 0
