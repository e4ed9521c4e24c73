"""Downloads into a cache that torch.hub shares.

A file comes in under a name with `.part`, is continued after an interruption, is
checked by size and SHA-256 and then renamed, so that a file under its own name is
whole. A lock beside it lets two processes that ask at once download it once. What a
first download's SHA-256 was is kept beside the file, with the file's time of change,
and a later difference is an error; a file of that same time is not read again for it.

torch.hub and huggingface_hub do not serve here: the one starts over after an
interruption and takes what was cut off for whole; the other takes a web page for a
file, writes until the disk is full, and without a network tries for half a minute.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from mmmeta.version import __version__
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.zoo import Source, find

CHUNK = 1 << 18
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # at one address; each goes on where the one before stopped
WAIT = 1.0  # seconds before the second attempt
_NETWORK = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


def cache_dir() -> Path:
    """Return where downloads go: $MMMETA_HOME, else torch.hub's checkpoints."""
    home = os.environ.get('MMMETA_HOME')
    if home:
        return Path(home).expanduser()
    import torch

    return Path(torch.hub.get_dir()) / 'checkpoints'


def fetch_published(name: str) -> Path:
    """Return the file of a published checkpoint, downloaded if it is not there.

    Args:
        name: `arch.tag`, or `arch` for the first of its tags.

    Raises:
        CheckpointError: An unknown name, or as for `fetch`.
    """
    row = find(name)
    if not row.manual:
        return fetch([source for source in row.sources if not source.manual])
    path = cache_dir() / row.file
    if not path.is_file():
        raise CheckpointError(
            f'{row.name} cannot be downloaded without a browser: get it from '
            f'{row.sources[0].url} and put it at {path}'
        )
    return path


def fetch(sources: Sequence[Source], quiet: bool | None = None) -> Path:
    """Return the file at the first address that works, downloaded if need be.

    Args:
        sources: Addresses, tried in turn.
        quiet: Show no progress. Default: shown where stderr is a terminal.

    Returns:
        A file in `cache_dir()`. One that is there already is used if `check` finds
        it to be the one known.

    Raises:
        CheckpointError: No address works (the message says which file to put
            where), a file is not the one known, or there is no room.
    """
    folder = cache_dir()
    for source in sources:
        if (folder / source.file).is_file():
            check(folder / source.file, source)
            return folder / source.file
    problems = []
    for source in sources:
        path = folder / source.file
        try:
            with _writing(folder), FileLock(f'{path}.lock'):
                # Another process may have finished it while this one waited.
                if not path.is_file():
                    _download(source, path, quiet)
            return path
        except _TransferError as error:
            problems.append(f'{source.url}: {error}')
    path = folder / sources[0].file
    raise CheckpointError(
        f'no address of {path.name} works ({"; ".join(problems)}). Without a network, '
        f'get {sources[0].url} elsewhere and put it at {path}'
    )


def check(path: Path, source: Source, thorough: bool = False) -> None:
    """Refuse a file of the cache that is not the one known.

    It is read in full where something is known of its content and it has changed since
    that was last found right, by its time of change.

    Args:
        path: The file.
        source: The address it is from.
        thorough: Read it in full all the same. Default: False.

    Raises:
        CheckpointError: Its size or SHA-256 is not the one known or recorded.
    """
    changed = path.stat().st_mtime_ns
    recorded = _recorded(path)
    found_right = recorded and _record_of(path).stat().st_mtime_ns == changed
    digest = recorded
    if thorough or not found_right:
        digest = _sha256(path) if recorded or source.sha256 else ''
    _refuse_another(path, path, source, digest)
    if digest and not found_right:
        _record(path, digest, changed)


class _TransferError(Exception):
    """An address that does not give its file; another may."""


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what to do where the disk rather than the network fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CheckpointError(
            f'a download to {folder} cannot be written: {error.strerror or error}. '
            'Make room there, or set MMMETA_HOME to another folder'
        ) from error


def _download(source: Source, path: Path, quiet: bool | None) -> None:
    part = path.with_name(path.name + '.part')
    for attempt in range(ATTEMPTS):
        try:
            _transfer(source, part, quiet)
            break
        except _TransferError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(WAIT * (attempt + 1))
    try:
        digest = _sha256(part)
        _refuse_another(part, path, source, digest)
    except CheckpointError as error:
        part.unlink()
        raise _TransferError(str(error)) from None
    os.replace(part, path)
    _record(path, digest, path.stat().st_mtime_ns)


def _transfer(source: Source, part: Path, quiet: bool | None) -> None:
    """Download to `part`, going on from what is there."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {'User-Agent': f'mmmeta/{__version__}'}
    if have:
        headers['Range'] = f'bytes={have}-'
    request = urllib.request.Request(source.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing behind what is there: it is no part of this
            part.unlink()
        raise _TransferError(
            f'the server answered {error.code} {error.reason}'
        ) from None
    except (*_NETWORK, ValueError) as error:
        raise _TransferError(_reason(error)) from None
    with response:
        if 'text/html' in response.headers.get('Content-Type', ''):
            raise _TransferError('the server sent a web page, not a file')
        if response.status != 206:
            have = 0
        length = response.headers.get('Content-Length')
        total = have + int(length) if length else None
        if source.size and total and total != source.size:
            raise _TransferError(f'it has {total} bytes, expected {source.size}')
        _refuse_full_disk(part, (total or 0) - have)
        _save(response, part, have, total, quiet)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _TransferError(f'it ended after {size} of {total} bytes')


def _save(
    response: http.client.HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
    quiet: bool | None,
) -> None:
    hide = not sys.stderr.isatty() if quiet is None else quiet
    bar = tqdm(
        total=total,
        initial=have,
        unit='B',
        unit_scale=True,
        desc=part.name.removesuffix('.part'),
        disable=hide,
    )
    with part.open('ab' if have else 'wb') as file, bar:
        while True:
            try:
                chunk = response.read(CHUNK)
            except _NETWORK as error:
                raise _TransferError(f'it broke off: {_reason(error)}') from None
            if not chunk:
                return
            file.write(chunk)
            bar.update(len(chunk))


def _refuse_full_disk(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f'{needed >> 20} MiB are needed and {free >> 20} MiB are free',
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, 'reason', None) or error) or type(error).__name__


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + '.sha256')


def _recorded(path: Path) -> str:
    """Return the SHA-256 that is kept beside a file, '' where none is."""
    record = _record_of(path)
    words = record.read_text().split() if record.is_file() else []
    return words[0] if words else ''


def _record(path: Path, digest: str, changed: int) -> None:
    """Keep a file's SHA-256 beside it, dated by the file's own time of change."""
    record = _record_of(path)
    with contextlib.suppress(OSError):  # a folder of somebody else's
        record.write_text(f'{digest}  {path.name}\n')
        os.utime(record, ns=(changed, changed))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open('rb') as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse_another(file: Path, path: Path, source: Source, digest: str) -> None:
    """Compare a file with what is known of it and recorded of `path`."""
    size = file.stat().st_size
    if source.size is not None and size != source.size:
        raise CheckpointError(
            f'{file} has {size} bytes, expected {source.size}; delete it to download '
            'it again'
        )
    if source.sha256 and not digest.startswith(source.sha256):
        raise CheckpointError(
            f'{file} has SHA-256 {digest}, expected {source.sha256}; it is damaged or '
            'another file: delete it to download it again'
        )
    recorded = _recorded(path)
    if recorded and recorded != digest:
        raise CheckpointError(
            f'{file} has SHA-256 {digest}, and at its first download had {recorded}: '
            'it was changed, here or where it comes from. If you trust the change, '
            f'delete {_record_of(path)}; else delete the file'
        )
