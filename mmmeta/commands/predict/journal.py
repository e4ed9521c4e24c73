"""Results so far, line by line: of a run that may end early, or of one of several.

Each process predicts a part of the images (`Shard`) and appends a line of JSON per
image to a file of its own (`Journal`). Who finishes last merges them in the order of
the images, so that several processes, or a run that was resumed, give the same files as
one run.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmeta.commands.files import Lines
from mmmeta.errors import InvalidValueError, UserError

END = 'images'  # key of the last line of a complete journal
WAITING = 'the results of this shard; the last one to finish writes those of all'


@dataclass(frozen=True)
class Shard:
    """One of several parts of a list of images.

    Attributes:
        index: From 0.
        count: How many parts there are.
    """

    index: int = 0
    count: int = 1

    def of(self, number: int) -> range:
        """Return the indices of its images among `number`."""
        return range(self.index, number, self.count)

    def name(self, stem: str) -> str:
        """Return the name of its journal."""
        part = f'.{self.index + 1}-of-{self.count}' if self.count > 1 else ''
        return f'{stem}{part}.jsonl.part'


def parse_shard(text: str | None) -> Shard:
    """Return the shard I/N, with I from 1; of None that of the launcher, as torchrun.

    Raises:
        InvalidValueError: Another text.
    """
    if text is None:
        rank, size = os.environ.get('RANK', '0'), os.environ.get('WORLD_SIZE', '1')
        return Shard(int(rank), int(size))
    index, slash, count = text.partition('/')
    if slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count):
        return Shard(int(index) - 1, int(count))
    raise InvalidValueError(
        f'--shard {text!r}: expected I/N, such as 1/8, with I from 1 to N'
    )


class Journal:
    """A file with a line per image.

    Args:
        out_dir: Its folder.
        stem: Start of its name.
        header: The first line; a run with another one cannot be resumed.
        names: Names of all images of all shards, in order.
        shard: Which of them are predicted here.
        resume: Keep the lines of an earlier run.

    Attributes:
        done: Names of the images that are in it.

    Raises:
        UserError: It cannot be written, or is of another run.
    """

    def __init__(
        self,
        out_dir: Path,
        stem: str,
        header: Mapping[str, Any],
        names: Sequence[str],
        shard: Shard,
        resume: bool,
    ) -> None:
        self.names = names
        self.parts = [
            out_dir / Shard(i, shard.count).name(stem) for i in range(shard.count)
        ]
        self.path = self.parts[shard.index]
        self.done: set[str] = set()
        self.header = dict(header)
        keep = self._read_earlier() if resume else 0
        self.lines = Lines(self.path, keep)
        if not keep:
            self.lines.write(json.dumps(self.header) + '\n')

    def _read_earlier(self) -> int:
        """Return how many bytes of an earlier run are to be kept; set `done`.

        These are its complete lines but for the mark of its end.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise UserError(f'{self.path}: {error.strerror}') from error
        first, *lines = content.splitlines(keepends=True) or [b'']
        if not first.endswith(b'\n'):
            return 0
        keep = len(first)
        for line in lines:
            if not line.endswith(b'\n'):  # cut in the middle
                break
            record = _loads(line, self.path)
            if END in record:
                break
            self.done.add(record['file_name'])
            keep += len(line)
        if _loads(first, self.path) != self.header or not self.done <= {*self.names}:
            raise UserError(
                f'{self.path} is of another model or other images, so it cannot be '
                'resumed; omit --resume, or choose another --out-dir'
            )
        return keep

    def add(self, record: Mapping[str, Any]) -> None:
        """Append an image, with its name as `file_name`.

        Raises:
            DiskError: It cannot be written.
            ValueError: It has NaN or infinite values.
        """
        self.lines.write(json.dumps(record, allow_nan=False) + '\n')
        self.done.add(record['file_name'])

    def finish(self) -> bool:
        """Mark it as complete; return whether those of all shards are."""
        self.lines.write(json.dumps({END: len(self.done)}) + '\n')
        self.lines.close()
        return all(_is_complete(path) for path in self.parts)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the images of all shards, in the order of the names."""
        places: dict[str, tuple[Path, int]] = {}
        for path in self.parts:
            with path.open('rb') as file:
                start = len(file.readline())
                for line in file:
                    record = json.loads(line)
                    if END not in record:
                        places[record['file_name']] = path, start
                    start += len(line)
        files = {path: path.open('rb') for path in self.parts}
        try:
            for name in self.names:
                if name in places:
                    path, start = places[name]
                    files[path].seek(start)
                    yield json.loads(files[path].readline())
        finally:
            for file in files.values():
                file.close()

    def remove(self) -> None:
        """Delete the journals of all shards, once their results are in other files."""
        for path in self.parts:
            with suppress(FileNotFoundError):  # another process merged them too
                path.unlink()


def _loads(line: bytes, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f'{path} cannot be resumed: {error}') from error
    return record if isinstance(record, dict) else {}


def _is_complete(path: Path) -> bool:
    """Whether the last line of a journal says that it is complete."""
    try:
        with path.open('rb') as file:
            file.seek(max(0, path.stat().st_size - 64))
            return file.read().rstrip(b'\n').split(b'\n')[-1].startswith(b'{"images"')
    except FileNotFoundError:
        return False
