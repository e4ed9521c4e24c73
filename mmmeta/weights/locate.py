"""Resolving a checkpoint's path, URL or name to a local file."""

import os
from pathlib import Path

SCHEME = 'mmmeta://'
WEB = ('http://', 'https://')


def is_remote(name: str) -> bool:
    """Whether `name` is a URL or an mmmeta:// name rather than a path."""
    return name.startswith((SCHEME, *WEB))


def locate(name: str | os.PathLike) -> Path:
    """Return the file of a checkpoint, downloading it if necessary.

    Args:
        name: A path, an http(s) URL, or mmmeta://NAME with NAME from
            `mmmeta list --pretrained`.

    Raises:
        CheckpointError: An unknown name or scheme, or the download failed.
    """
    from mmmeta.weights.errors import CheckpointError

    text = os.fspath(name)
    if text.startswith(SCHEME):
        from mmmeta.weights.download import fetch_published

        return fetch_published(text.removeprefix(SCHEME))
    if text.startswith(WEB):
        from mmmeta.weights.download import Source, fetch

        return fetch([Source(text)])
    if '://' in text:
        raise CheckpointError(
            f'{text}: mmmeta supports paths, http(s):// and {SCHEME}; download the '
            'file and pass its path'
        )
    return Path(text).expanduser()
