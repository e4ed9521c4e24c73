"""Conversion of checkpoint files from one layout to another."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from mmmeta.errors import one_line
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.locate import locate
from mmmeta.weights.reading import read_state_dict
from mmmeta.weights.state import parse, to_layout

SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')


def convert_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    to: str = 'mmmeta',
    *,
    ema: bool = True,
    prefix: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write only the weights of a checkpoint, in another layout.

    Args:
        src: A path, a URL or mmmeta://NAME, in any layout mmmeta knows.
        dst: The file to write: .safetensors, or .pth (.pt, .bin) for torch.save.
        to: A name in `mmmeta.weights.LAYOUT_NAMES`. Default: 'mmmeta'.
        ema: Use averaged weights if the file contains them. Default: True.
        prefix: Prefix of the backbone's keys in the file. Default: detected.
        overwrite: Replace `dst` if it exists. Default: False.

    Returns:
        The path written.

    Raises:
        CheckpointError: `src` cannot be read or has an unknown layout, the layout `to`
            cannot represent some of it, or `dst` cannot be written.
    """
    dst = _target(dst, SUFFIXES, overwrite)
    try:
        parsed = parse(read_state_dict(locate(src), ema=ema), prefix)
        state = to_layout(parsed, to)
    except CheckpointError as error:
        where = '' if os.fspath(src) in str(error) else f'{os.fspath(src)}: '
        raise CheckpointError(f'{where}{error}') from None
    _write({key: value.contiguous().clone() for key, value in state.items()}, dst)
    return dst


def merge_checkpoint(
    src: str | os.PathLike, dst: str | os.PathLike, *, overwrite: bool = False
) -> Path:
    """Write a checkpoint in parts as one file, with all that a run needs to resume.

    Args:
        src: A folder that a training with `fsdp.sharded_checkpoints` wrote.
        dst: The file to write, .pth (.pt, .bin).
        overwrite: Replace `dst` if it exists. Default: False.

    Returns:
        The path written.

    Raises:
        CheckpointError: `src` is damaged or incomplete, or `dst` cannot be written.
        MissingLibraryError: MMEngine is not installed.
    """
    from mmmeta.weights.scheme import load_from_local

    dst = _target(dst, SUFFIXES[1:], overwrite)
    _write(load_from_local(os.fspath(src), 'cpu'), dst)
    return dst


def _target(dst: str | os.PathLike, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    dst = Path(dst).expanduser()
    if dst.suffix not in suffixes:
        raise CheckpointError(
            f'the name {dst} must end in one of {", ".join(suffixes)}'
        )
    if dst.exists() and not overwrite:
        raise CheckpointError(f'{dst} already exists; choose another name or delete it')
    return dst


def _write(content: Any, dst: Path) -> None:
    """Write `dst` completely or not at all."""
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=dst.parent, suffix=dst.suffix)
        os.close(handle)
        if dst.suffix == '.safetensors':
            from safetensors.torch import save_file

            save_file(content, part, metadata={'format': 'pt'})
        else:
            with open(part, 'wb') as file:  # so that the reason below is Python's
                torch.save(content, file)
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, dst)
    except Exception as error:
        if part and os.path.exists(part):
            os.unlink(part)
        inner = error.__context__  # PyTorch tells of positions in the file
        reason = one_line(inner if isinstance(inner, OSError) else error)
        raise CheckpointError(f'{dst} cannot be written: {reason}') from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
