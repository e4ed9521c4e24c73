"""Result files that are written completely or not at all, or line by line."""

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

# Errors that all further files would also cause.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
NAME_MAX = 255  # bytes in a file name on all common file systems
_NUMBERS = count()


class DiskError(UserError):
    """Nothing more can be written to the output folder."""


@contextmanager
def disk_errors(where: Path | None = None) -> Iterator[None]:
    """Distinguish an error of the disk from one of a single file.

    Args:
        where: What is written to. Default: the file that the error names.

    Raises:
        DiskError: For an error of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        what = where or error.filename or 'the output folder'
        raise DiskError(f'{what}: {error.strerror}') from error


def make_folder(path: Path, option: str = '') -> None:
    """Create a folder to write to.

    Args:
        path: The folder.
        option: The option that named it, for the error. Default: none.

    Raises:
        UserError: It cannot be created or written to.
    """
    what = f'{option} {path}'.lstrip()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{what}: {error.strerror}') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'{what}: no permission to write there')


def check_files(paths: Iterable[Path]) -> None:
    """Check that no output file is an existing folder.

    Raises:
        UserError: There is one.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f'{path} is a folder; expected a file or nothing there')


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` once it is complete.

    Missing folders are created.

    Raises:
        OSError: It cannot be written; `filename` is its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the name, which may already have the maximum length.
    part = path.with_name(f'.mmmeta-{os.getpid()}-{next(_NUMBERS)}.part')
    try:
        with part.open('wb') as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
            del error.filename2
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file completely or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


class Lines:
    """A file that grows by complete lines, each written immediately.

    Args:
        path: The file.
        keep: Bytes of its previous content to keep; the rest is deleted. Default: 0.

    Raises:
        UserError: It cannot be opened.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self._end = keep
        try:
            # Unbuffered: lines that did not fit on a full disk are not retried at exit.
            self._file = path.open('r+b' if keep else 'wb', buffering=0)
            if keep:
                self._file.truncate(keep)
                self._file.seek(keep)
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}') from error

    def write(self, text: str) -> None:
        """Add lines, all of them or none.

        Raises:
            DiskError: They cannot be written.
        """
        # File names get their original bytes.
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
    """Return a unique file name without its extension.

    Args:
        name: The preferred name, possibly with folders; it is truncated if it is too
            long, and numbered if it is taken.
        taken: Names used so far; the new one is added.
        room: Bytes needed by the extension.
        ignore_case: Whether `x` and `X` are the same file.
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
    """Whether `x` and `X` are the same file in a (writable) folder."""
    probe = folder / f'.mmmeta-{os.getpid()}-case'
    probe.touch()
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()
