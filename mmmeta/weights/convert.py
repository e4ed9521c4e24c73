"""Checkpoint files from one layout to another."""

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
    """Write a checkpoint's weights in another layout, and nothing but the weights.

    Args:
        src: A path, an address or mmmeta://NAME, in any layout mmmeta knows.
        dst: The file to write: .safetensors, or .pth (.pt, .bin) for torch.save.
        to: A name of `mmmeta.weights.LAYOUT_NAMES`. Default: 'mmmeta'.
        ema: Take averaged weights where the file has them beside the others.
            Default: True.
        prefix: Where the backbone is in the file. Default: found out.
        overwrite: Replace `dst` if it is there. Default: False.

    Returns:
        The path written.

    Raises:
        CheckpointError: `src` cannot be read or is of no known layout, the layout
            `to` has no place for some of it, or `dst` cannot be written.
    """
    dst = Path(dst).expanduser()
    if dst.suffix not in SUFFIXES:
        raise CheckpointError(
            f'{dst} must end in one of {", ".join(SUFFIXES)}, to say how to write it'
        )
    if dst.exists() and not overwrite:
        raise CheckpointError(f'{dst} exists already; choose another name or delete it')
    try:
        parsed = parse(read_state_dict(locate(src), ema=ema), prefix)
        state = to_layout(parsed, to)
    except CheckpointError as error:
        where = '' if os.fspath(src) in str(error) else f'{os.fspath(src)}: '
        raise CheckpointError(f'{where}{error}') from None
    _write(state, dst)
    return dst


def _write(state: dict[str, Tensor], dst: Path) -> None:
    """Write `dst`, all of it or nothing."""
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
