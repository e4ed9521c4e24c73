"""Conversion of checkpoint files from one layout to another."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

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
    dst = Path(dst).expanduser()
    if dst.suffix not in SUFFIXES:
        raise CheckpointError(
            f'the name {dst} must end in one of {", ".join(SUFFIXES)}'
        )
    if dst.exists() and not overwrite:
        raise CheckpointError(f'{dst} already exists; choose another name or delete it')
    try:
        parsed = parse(read_state_dict(locate(src), ema=ema), prefix)
        state = to_layout(parsed, to)
    except CheckpointError as error:
        where = '' if os.fspath(src) in str(error) else f'{os.fspath(src)}: '
        raise CheckpointError(f'{where}{error}') from None
    _write(state, dst)
    return dst


def _write(state: dict[str, Tensor], dst: Path) -> None:
    """Write `dst` completely or not at all."""
    state = {key: value.contiguous().clone() for key, value in state.items()}
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=dst.parent, suffix=dst.suffix)
        os.close(handle)
        if dst.suffix == '.safetensors':
            from safetensors.torch import save_file

            save_file(state, part, metadata={'format': 'pt'})
        else:
            torch.save(state, part)
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, dst)
    except Exception as error:
        if part and os.path.exists(part):
            os.unlink(part)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f'{dst} cannot be written: {reason}') from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
