"""Files of results: there whole or not at all, or growing by whole lines."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from mmmeta.errors import UserError

# What every further file would fail with too.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
NAME_MAX = 255  # bytes of a file's name, on all common file systems
_NUMBERS = count()


class DiskError(UserError):
    """Nothing more can be written where the results go."""


@contextmanager
def disk_errors() -> Iterator[None]:
    """Tell an error of the disk from one of a single file.

    Raises:
        DiskError: For an error of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise DiskError(
            f'{error.filename or "the output folder"}: {error.strerror}'
        ) from error


def make_folder(path: Path, option: str = '') -> None:
    """Make a folder to write to.

    Args:
        path: The folder.
        option: Where the user named it, for the error. Default: nowhere.

    Raises:
        UserError: It cannot be made or written to.
    """
    what = f'{option} {path}'.lstrip()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{what}: {error.strerror}') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'{what}: no permission to write there')


def check_files(paths: Iterable[Path]) -> None:
    """Look for folders where files are to be written.

    Raises:
        UserError: There is one.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f'{path} is a folder; a file is to be written there')


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes its place once all of it is written.

    Folders in between are made.

    Raises:
        OSError: It cannot be written; `filename` says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not longer for a long name, which may be as long as one can be.
    part = path.with_name(f'.mmmeta-{os.getpid()}-{next(_NUMBERS)}.part')
    try:
        with part.open('wb') as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


class Lines:
    """A file that grows by whole lines, each on the disk's way once it is written.

    Args:
        path: The file; what it had is gone.

    Raises:
        UserError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = 0
        try:
            # Unbuffered: what a full disk did not take is not tried again at the end.
            self._file = path.open('wb', buffering=0)
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}') from error

    def write(self, text: str) -> None:
        """Add lines, all of them or none.

        Raises:
            DiskError: They cannot be written.
        """
        # Names of files get back the bytes that they have.
        data = text.encode('utf-8', 'surrogateescape')
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise DiskError(f'{self.path}: {error.strerror}') from error
        self._end += done

    def close(self) -> None:
        self._file.close()


def csv_rows(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as lines of a CSV file."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # With '\n' alone Python 3.10 and 3.11 would not quote a '\r'.
        csv.writer(line, lineterminator='\r\n').writerow(row)
        lines.append(line.getvalue().removesuffix('\r\n') + '\n')
    return ''.join(lines)


def unique_name(name: str, taken: set[str], room: int, ignore_case: bool) -> str:
    """Return a name of a file, without its ending, that no other has.

    Args:
        name: The one wished for, perhaps with folders in front; it is cut off where
            it is too long, and numbered where it is taken.
        taken: Those given so far; the new one is added.
        room: Bytes that the ending needs.
        ignore_case: Whether `x` and `X` are one file.
    """
    folder, slash, base = name.rpartition('/')
    for number in count(1):
        suffix = f'~{number}' if number > 1 else ''
        stem = base
        while len(os.fsencode(stem + suffix)) + room > NAME_MAX:
            stem = stem[:-1]
        found = f'{folder}{slash}{stem}{suffix}'
        key = found.casefold() if ignore_case else found
        if key not in taken:
            taken.add(key)
            return found
    raise AssertionError


def ignores_case(folder: Path) -> bool:
    """Return whether a folder, which can be written to, takes `x` and `X` for one."""
    probe = folder / f'.mmmeta-{os.getpid()}-case'
    probe.touch()
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()
