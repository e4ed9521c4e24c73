"""Resolving a checkpoint's path, URL or name to a local file."""

import os
from pathlib import Path

from mmmeta.weights.names import SCHEME

WEB = ('http://', 'https://')


def is_remote(name: str) -> bool:
    """Whether `name` is a URL or an mmmeta:// name rather than a path."""
    return name.startswith((SCHEME, *WEB))


def local_path(name: str | bytes | os.PathLike) -> Path:
    """Return a path with `~` for a home folder.

    Raises:
        CheckpointError: There is no such user.
    """
    from mmmeta.weights.errors import CheckpointError

    text = os.fsdecode(name)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CheckpointError(
            f'{shown(text)}: there is no such user; pass the full path'
        ) from None


def shown(name: str | bytes | os.PathLike) -> str:
    r"""Return a printable path, with bytes that are not UTF-8 as \xNN."""
    return os.fsencode(name).decode('utf-8', 'backslashreplace')


def locate(name: str | bytes | os.PathLike) -> Path:
    """Return the file of a checkpoint, downloading it if necessary.

    Args:
        name: A path, an http(s) URL, or mmmeta://NAME with NAME from
            `mmmeta list`.

    Raises:
        CheckpointError: An unknown name or scheme, or the download failed.
    """
    from mmmeta.weights.errors import CheckpointError

    text = os.fsdecode(name)
    if text.startswith(SCHEME):
        from mmmeta.weights.download import fetch_published

        return fetch_published(text.removeprefix(SCHEME))
    if text.startswith(WEB):
        from mmmeta.weights.download import fetch
        from mmmeta.weights.source import Source

        return fetch([Source(text)])
    if '://' in text:
        raise CheckpointError(
            f'{shown(text)}: mmmeta supports paths, http(s):// and {SCHEME}; download '
            'the file and pass its path'
        )
    return local_path(text)
