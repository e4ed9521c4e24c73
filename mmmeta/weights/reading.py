"""Reading checkpoint files without executing code in them.

Torch files are always read with `weights_only=True`. Besides tensors, only the
bookkeeping of MMEngine and training scripts is allowed: plain containers of data, none
of which execute code when they are built.
"""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmeta.weights.errors import CheckpointError, first_few

# In order of preference. Averaged weights come first: if a file has both, the published
# accuracy is that of the average.
EMA_WRAPPERS = ('state_dict_ema', 'model_ema')
WRAPPERS = ('state_dict', 'model', 'module')

_EXPECTED = (
    'Expected a checkpoint: a .safetensors file, or a file written by torch.save, with '
    'weights by name'
)


def read_state_dict(
    path: str | os.PathLike, ema: bool = True, map_location: Any = 'cpu'
) -> dict[str, Tensor]:
    """Return the weights in a file by key.

    Args:
        path: A .safetensors file, or one that torch.save or MMEngine wrote; the
            content decides, not the name.
        ema: Use averaged weights if the file contains them. Default: True.
        map_location: As for `torch.load`. Default: 'cpu'.

    Returns:
        Tensors of any dtype and shape, unwrapped from `state_dict`, `model` and
        the like, under the file's own keys.

    Raises:
        CheckpointError: The file does not exist, cannot be read, is damaged, would
            execute code, or contains something else.
    """
    content = read_file(path, map_location)
    return unwrap(content, os.fspath(path), ema)


def read_file(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Return a file's content, including wrappers and bookkeeping; see above."""
    path = Path(path).expanduser()
    head = _first_bytes(path)
    _refuse_what_is_no_checkpoint(path, head)
    if _is_safetensors(path, head):
        return _read_safetensors(path, map_location)
    return _read_torch(path, map_location)


def unwrap(content: Any, name: str, ema: bool = True) -> dict[str, Tensor]:
    """Return the state_dict in a file's content.

    Args:
        content: The result of `read_file` or `torch.load`.
        name: Its name in errors.
        ema: As for `read_state_dict`.

    Raises:
        CheckpointError: There is none, or it has values that are not tensors.
    """
    order = (EMA_WRAPPERS + WRAPPERS) if ema else (WRAPPERS + EMA_WRAPPERS)
    while isinstance(content, Mapping):
        inner = next((k for k in order if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{name} contains a {type(content).__name__}, not weights. {_EXPECTED}'
        )
    if not content:
        raise CheckpointError(f'{name} contains no weights: it is empty. {_EXPECTED}')
    wrong = [k for k, v in content.items() if not isinstance(v, Tensor)]
    if wrong:
        kinds = [f'{k!r} ({type(content[k]).__name__})' for k in wrong]
        raise CheckpointError(
            f'{name} has values that are not tensors: {first_few(kinds)}. {_EXPECTED}'
        )
    return dict(content)


def _first_bytes(path: Path) -> bytes:
    """Return the start of a file, or say why it cannot be read."""
    try:
        if path.is_dir():
            inside = sorted(
                p.name for p in path.iterdir() if p.suffix in ('.pth', '.safetensors')
            )
            hint = f'; did you mean one of {first_few(inside)} in it?' if inside else ''
            raise CheckpointError(f'{path} is a directory{hint or ", not a file"}')
        with path.open('rb') as file:
            return file.read(512)
    except FileNotFoundError:
        raise CheckpointError(
            f'{path} does not exist. {_EXPECTED}; check the path, or name a published '
            'checkpoint as mmmeta://NAME (`mmmeta list --pretrained` prints the names)'
        ) from None
    except PermissionError:
        raise CheckpointError(
            f'{path} cannot be read: permission denied. Change its owner or mode '
            '(chmod u+r)'
        ) from None
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error


def _refuse_what_is_no_checkpoint(path: Path, head: bytes) -> None:
    start = head.lstrip()[:64].lower()
    if not head:
        problem = 'is empty'
    elif start.startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
        problem = 'is a web page saved under that name, not a checkpoint'
    elif start.startswith(b'version https://git-lfs'):
        problem = 'is a Git LFS pointer, not the file itself (git lfs pull gets it)'
    elif head.startswith(b'PK\x03\x04') and not zipfile.is_zipfile(path):
        problem = 'is truncated'
    else:
        return
    raise CheckpointError(f'{path} {problem}. Download it again. {_EXPECTED}')


def _is_safetensors(path: Path, head: bytes) -> bool:
    # Eight bytes of length, then JSON; if these are damaged, the file name decides.
    return path.suffix == '.safetensors' or head[8:9] == b'{'


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(map_location or 'cpu'))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'{path} is a damaged .safetensors file: {error}. Download it again'
        ) from error


def _read_torch(path: Path, map_location: Any) -> Any:
    try:
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found is None and not re.search(r'unrecognized|Can only build', str(error)):
            raise CheckpointError(
                f'{path} is damaged or not a checkpoint. {_EXPECTED}'
            ) from None
        what = f' ({found.group(1)})' if found else ''
        raise CheckpointError(
            f'{path} was rejected: it is a pickle that would run code or build objects '
            f'other than weights{what}; nothing was executed. If you trust its source, '
            'load it with torch.load in your own script and save only its state_dict'
        ) from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        OSError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f'{path} is damaged or not a checkpoint ({reason}). Download it again. '
            f'{_EXPECTED}'
        ) from error


def safe_globals(
    buffer: type | None = None, log_method: Callable[[Any, Any], Any] | None = None
) -> list[Callable | tuple[Callable, str]]:
    """Return the classes allowed in a checkpoint's bookkeeping besides tensors.

    Training scripts store their arguments and MMEngine its log: HistoryBuffers of
    NumPy arrays and scalars, which refer to their methods by `getattr`. MMEngine's
    own list allows `getattr` in general; here the log is read as plain data.

    Args:
        buffer: Replacement for HistoryBuffer. Default: `LogBuffer`.
        log_method: Replacement for `getattr` in the file. Default: `_log_method`.
    """
    import numpy as np

    core = getattr(np, '_core', None) or np.core
    numpy: list[Callable | tuple[Callable, str]] = [np.ndarray, np.dtype]
    for function in (core.multiarray._reconstruct, core.multiarray.scalar):
        numpy += [
            (function, f'{package}.multiarray.{function.__name__}')
            for package in ('numpy.core', 'numpy._core')
        ]
    numpy += {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    return [
        (buffer or LogBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (log_method or _log_method, 'builtins.getattr'),
        argparse.Namespace,
        *numpy,
    ]


class LogBuffer:
    """Replaces MMEngine's HistoryBuffer, whose unpickling changes class attributes."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _log_method(owner: Any, name: Any) -> str:
    """Replace `getattr` in a pickle: return names instead of a LogBuffer's methods."""
    if owner is not LogBuffer:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.getattr')
    return str(name)
