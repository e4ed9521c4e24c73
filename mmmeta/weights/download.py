"""Downloads into the cache of torch.hub.

A file is downloaded under a name with `.part`, resumed after an interruption while its
ETag is the same, checked by size and SHA-256 and then renamed, so that a file with its
final name is complete. A lock file prevents two processes from downloading it twice.
The SHA-256 of the first download is recorded next to the file with the file's
modification time; a later difference is an error, and a file with the same time is not
hashed again.

torch.hub and huggingface_hub are not suitable: torch.hub restarts interrupted downloads
and accepts truncated files; huggingface_hub accepts a web page as a file, writes until
the disk is full, and retries for half a minute without a network.
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

from mmmeta.errors import one_line
from mmmeta.version import __version__
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.names import find
from mmmeta.weights.source import Source

CHUNK = 1 << 18
TIMEOUT = 30  # seconds without receiving a byte
ATTEMPTS = 3  # per URL; each resumes the previous one
WAIT = 1.0  # seconds before the second attempt
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NETWORK = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


def cache_dir() -> Path:
    """Return the download folder: $MMMETA_HOME, else torch.hub's checkpoints."""
    home = os.environ.get('MMMETA_HOME')
    if home:
        return Path(home).expanduser()
    import torch

    return Path(torch.hub.get_dir()) / 'checkpoints'


def fetch_published(name: str) -> Path:
    """Return the file of a published checkpoint, downloading it if necessary.

    Args:
        name: As for `mmmeta.weights.names.find`.

    Raises:
        CheckpointError: An unknown name, or as for `fetch`.
    """
    return fetch(find(name).sources)


def fetch(sources: Sequence[Source], quiet: bool | None = None) -> Path:
    """Return the file from the first URL that works, downloading it if necessary.

    Args:
        sources: URLs, tried in order.
        quiet: Show no progress. Default: shown if stderr is a terminal.

    Returns:
        A file in `cache_dir()`. An existing file is used if it passes `check`.

    Raises:
        CheckpointError: No URL works (the message says which file to put where), a
            file is not the expected one, or the disk is full.
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
                # Another process may have downloaded it while this one waited.
                if not path.is_file():
                    _download(source, path, quiet)
            return path
        except _TransferError as error:
            problems.append(f'{source.url}: {error}')
    path = folder / sources[0].file
    raise CheckpointError(
        f'no URL of {path.name} works ({"; ".join(problems)}). Get '
        f'{sources[0].url} in a browser or elsewhere and save it as {path}'
    )


def check(path: Path, source: Source, thorough: bool = False) -> None:
    """Raise an error if a cached file is not the expected one.

    It is hashed if its SHA-256 is known and its modification time has changed since it
    was last verified.

    Args:
        path: The file.
        source: Its URL.
        thorough: Hash it in any case. Default: False.

    Raises:
        CheckpointError: Its size or SHA-256 differs from the known or recorded one.
    """
    changed = path.stat().st_mtime_ns
    recorded = _recorded(path)
    found_right = recorded and _record_of(path).stat().st_mtime_ns == changed
    digest = recorded
    if thorough or not found_right:
        digest = sha256(path) if recorded or source.sha256 else ''
    _refuse_another(path, path, source, digest)
    if digest and not found_right:
        _record(path, digest, changed)


class _TransferError(Exception):
    """A URL does not deliver its file; another may."""


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what to do if the disk rather than the network fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        advice = 'Set MMMETA_HOME to a folder that can be written'
        if error.errno in _FULL:
            advice = 'Free some space there, or set MMMETA_HOME to another folder'
        raise CheckpointError(
            f'a download to {folder} cannot be written: {error.strerror or error}. '
            f'{advice}'
        ) from error


def _download(source: Source, path: Path, quiet: bool | None) -> None:
    part = path.with_name(path.name + '.part')
    for attempt in range(ATTEMPTS):
        try:
            (_from_drive if source.drive_id else _transfer)(source, part, quiet)
            break
        except _TransferError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(WAIT * (attempt + 1))
    try:
        digest = sha256(part)
        _refuse_another(part, path, source, digest)
    except CheckpointError as error:
        part.unlink()
        raise _TransferError(str(error)) from None
    os.replace(part, path)
    _tag_of(part).unlink(missing_ok=True)
    _record(path, digest, path.stat().st_mtime_ns)


def _transfer(source: Source, part: Path, quiet: bool | None) -> None:
    """Download to `part`, resuming if it exists."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {'User-Agent': f'mmmeta/{__version__}'}
    tag = _tag_of(part)
    if have:
        headers['Range'] = f'bytes={have}-'
        if tag.is_file():
            headers['If-Range'] = tag.read_text()
    request = urllib.request.Request(source.url, headers=headers)
    try:
        # urlopen would keep to the proxies of its first call in this process.
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # out of range: `part` is not a part of this file
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
        if not have:
            part.unlink(missing_ok=True)  # before its tag changes
            tag.unlink(missing_ok=True)
            etag = response.headers.get('ETag', '')
            if etag.startswith('"'):  # a weak one does not stand for the same bytes
                tag.write_text(etag)
        _save(response, part, have, total, quiet)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _TransferError(f'it ended after {size} of {total} bytes')


def _tag_of(part: Path) -> Path:
    """Return where the ETag of the file is kept that `part` is a part of."""
    return part.with_name(part.name + '.etag')


def _from_drive(source: Source, part: Path, quiet: bool | None) -> None:
    """Download from Google Drive to `part`, going on from what is there.

    gdown confirms what Drive asks before large files.
    """
    import gdown
    import requests
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    try:
        gdown.download(
            id=source.drive_id,
            output=str(part),
            quiet=not sys.stderr.isatty() if quiet is None else quiet,
            use_cookies=False,
            resume=True,
            timeout=TIMEOUT,
        )
    except FileURLRetrievalError:
        raise _TransferError(
            'Google Drive gives a page instead of the file: too many people got it '
            'today, or it is not public any more'
        ) from None
    except (DownloadError, requests.RequestException) as error:
        # requests wraps the reason in the account of its retries.
        cause = error.args[0] if error.args else None
        reason = getattr(cause, 'reason', None) or error
        raise _TransferError(one_line(reason)) from None
    except OSError:
        raise  # of the disk
    except Exception as error:  # gdown takes for granted what an answer has in it
        raise _TransferError(
            f'gdown cannot read the answer ({one_line(error)})'
        ) from None


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
    """Return the SHA-256 recorded next to a file, or ''."""
    record = _record_of(path)
    words = record.read_text().split() if record.is_file() else []
    return words[0] if words else ''


def _record(path: Path, digest: str, changed: int) -> None:
    """Record a file's SHA-256 next to it, with the file's modification time."""
    record = _record_of(path)
    with contextlib.suppress(OSError):  # the folder may be read-only
        record.write_text(f'{digest}  {path.name}\n')
        os.utime(record, ns=(changed, changed))


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open('rb') as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse_another(file: Path, path: Path, source: Source, digest: str) -> None:
    """Compare a file with its known size and SHA-256 and those recorded for `path`."""
    size = file.stat().st_size
    if source.size is not None and size != source.size:
        raise CheckpointError(
            f'{file} has {size} bytes, expected {source.size}; delete it to download '
            'it again'
        )
    if source.sha256 and not digest.startswith(source.sha256):
        raise CheckpointError(
            f'{file} has SHA-256 {digest}, expected {source.sha256}; it is damaged or '
            'a different file: delete it to download it again'
        )
    recorded = _recorded(path)
    if recorded and recorded != digest:
        raise CheckpointError(
            f'{file} has SHA-256 {digest}, but had {recorded} when first downloaded: '
            'it was changed, here or at its source. If you trust the change, '
            f'delete {_record_of(path)}; otherwise delete the file'
        )
