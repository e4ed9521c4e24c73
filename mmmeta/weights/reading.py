"""Reading checkpoint files without executing code in them.

Besides tensors, only the bookkeeping of MMEngine and training scripts is allowed: plain
containers of data, none of which execute code when they are built. Nothing here is
shared between threads, and no environment variable changes it.
"""

import io
import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.kinds import AGAIN, HEAD, problem
from mmmeta.weights.locate import local_path, shown
from mmmeta.weights.parts import RUN, is_parted, put_back
from mmmeta.weights.unpickle import (
    STATES,
    TENSORS,
    DamagedError,
    Names,
    Pickle,
    RefusedError,
)

MapLocation = Any  # as for torch.load: None, a device or its name, a dict or a function
# In order of preference. Averaged weights come first: if a file has both, the published
# accuracy is that of the average.
EMA_WRAPPERS = ('state_dict_ema', 'model_ema')
WRAPPERS = ('state_dict', 'model', 'module')
DEEPEST = 8  # nested wrappers

_EXPECTED = (
    'Expected a checkpoint: a .safetensors file, or a file written by torch.save, with '
    'weights by name'
)
# Errors of `pickle`, `zipfile` and PyTorch for a damaged file.
_BROKEN = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, AssertionError, MemoryError, OSError),
)


class LogBuffer:
    """Replaces MMEngine's HistoryBuffer, with its content as plain data.

    Attributes:
        state: Its attributes by name.
    """

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}


class Scheduler:
    """Replaces a scheduler class that a state refers to."""


STATISTICS = ('min', 'max', 'current', 'mean')
ANNEALINGS = ('_annealing_cos', '_annealing_linear')


def log_names(
    buffer: type, scheduler: type, config: Any, method: Any
) -> dict[str, Any]:
    """Return replacements for the names that MMEngine's bookkeeping refers to.

    Args:
        buffer: Replacement for HistoryBuffer.
        scheduler: The class of one-cycle schedulers, whose state refers to functions.
        config: Builds a part of a config from a dict.
        method: `getattr` for these two classes.
    """
    history = 'mmengine.logging.history_buffer.HistoryBuffer'
    cycle = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
    return {
        history: buffer,
        cycle: scheduler,
        'mmengine.config.config.ConfigDict': config,
        'builtins.getattr': method,
        # In protocol 4 and later, as a single name.
        **{f'{history}.{name}': method(buffer, name) for name in STATISTICS},
        **{f'{cycle}.{name}': method(scheduler, name) for name in ANNEALINGS},
    }


def _method(owner: Any, name: Any) -> str:
    """Replace `getattr` in a pickle: return names instead of the log's methods."""
    if owner not in (LogBuffer, Scheduler):
        raise RefusedError('builtins.getattr')
    return str(name)


def _set_log(owner: LogBuffer, state: Any) -> None:
    owner.state = state


def _config(items: Any = ()) -> dict[str, Any]:
    return dict(items)


STATES[LogBuffer] = _set_log
PLAIN: Names = {**TENSORS, **log_names(LogBuffer, Scheduler, _config, _method)}


def read_state_dict(
    path: str | bytes | os.PathLike, ema: bool = True, map_location: MapLocation = 'cpu'
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
    return unwrap(read_file(path, map_location), shown(path), ema)


def read_file(
    path: str | bytes | os.PathLike,
    map_location: MapLocation = 'cpu',
    names: Names = PLAIN,
) -> Any:
    """Return a file's content, including wrappers and bookkeeping; see above.

    Args:
        path: As for `read_state_dict`, or a folder that several processes wrote (see
            `mmmeta.weights.parts`).
        map_location: As for `torch.load`. Default: 'cpu'.
        names: The names it may refer to. Default: tensors and plain data.
    """
    path = local_path(path)
    try:
        if is_parted(path):
            return _read_parted(path, map_location, names)
        _check_regular(path)
        with path.open('rb') as file:
            return read_stream(file, shown(path), map_location, names, path.suffix)
    except FileNotFoundError:
        raise CheckpointError(
            f'{shown(path)} does not exist. {_EXPECTED}; check the path, or name a '
            'published checkpoint as mmmeta://NAME (`mmmeta list --pretrained` prints '
            'the names)'
        ) from None
    except PermissionError:
        raise CheckpointError(
            f'{shown(path)} cannot be read: permission denied. Change its owner or '
            'mode (chmod u+r)'
        ) from None
    except OSError as error:  # a link to itself, a name too long, ...
        raise CheckpointError(
            f'{shown(path)} cannot be read: {error.strerror or error}'
        ) from error


def _read_parted(path: Path, map_location: MapLocation, names: Names) -> Any:
    from safetensors import SafetensorError

    content = read_file(path / RUN, 'cpu', names)
    try:
        return _placed(put_back(content, path), shown(path), map_location, names)
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(
            f'{shown(path)} needs a newer PyTorch than {torch.__version__} ({error}); '
            'update it, or convert the folder with one: mmmeta convert'
        ) from error
    except (SafetensorError, *_BROKEN) as error:
        raise CheckpointError(
            f'{shown(path)} is damaged or not a checkpoint ({error}). {AGAIN}'
        ) from error


def read_stream(
    file: BinaryIO, name: str, map_location: MapLocation, names: Names, suffix: str = ''
) -> Any:
    """Return an open file's content; see `read_file`.

    Args:
        file: A seekable file.
        name: Its name in errors.
        map_location: As for `torch.load`.
        names: The names it may refer to.
        suffix: The suffix of its name, which decides if the content does not.
    """
    head = file.read(HEAD)
    file.seek(0)
    has_header = head[8:9] == b'{'  # safetensors: eight bytes of length, then JSON
    if not has_header and (found := problem(file)):
        raise CheckpointError(f'{name} {found}. {_EXPECTED}')
    if has_header or (suffix == '.safetensors' and head[:1] not in (b'P', b'\x80')):
        return _read_safetensors(file, name, map_location)
    try:
        return _read_torch(file, map_location, names)
    except RefusedError as error:
        raise CheckpointError(
            f'{name} was rejected: it contains more than weights and plain data '
            f'({error}), which could run code; nothing was executed. If you trust its '
            'source, load it with torch.load in your own script and save only its '
            'state_dict'
        ) from None
    except (DamagedError, *_BROKEN) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if re.search('map_location|restore data location|one of cpu', str(error)):
            raise CheckpointError(
                f'{name}: its tensors cannot be moved to map_location '
                f"({reason}). Pass another, such as 'cpu'"
            ) from error
        raise CheckpointError(
            f'{name} is damaged or not a checkpoint ({reason}). {AGAIN}. {_EXPECTED}'
        ) from error


def unwrap(content: Any, name: str, ema: bool = True) -> dict[str, Tensor]:
    """Return the state_dict in a file's content.

    Args:
        content: The result of `read_file` or `torch.load`.
        name: Its name in errors.
        ema: As for `read_state_dict`.

    Raises:
        CheckpointError: There is none, or it has values that are not tensors, or keys
            that are not strings.
    """
    order = (EMA_WRAPPERS + WRAPPERS) if ema else (WRAPPERS + EMA_WRAPPERS)
    found = _innermost(content, order, DEEPEST)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f'{name} contains a {type(found).__name__}, not weights. {_EXPECTED}'
        )
    if not found:
        raise CheckpointError(f'{name} contains no weights: it is empty. {_EXPECTED}')
    check_entries(found, name)
    return dict(found)


def check_entries(state: Mapping[Any, Any], name: str) -> None:
    """Raise CheckpointError unless a state_dict has only tensors by name.

    Modules may store other objects under PyTorch's name `_extra_state`.
    """
    odd = [repr(key)[:60] for key in state if not isinstance(key, str)]
    if odd:
        raise CheckpointError(
            f'{name} has keys that are not strings: {first_few(odd)}. {_EXPECTED}'
        )
    wrong = [
        f'{key!r} ({type(value).__name__})'
        for key, value in state.items()
        if not isinstance(value, Tensor) and not key.endswith('_extra_state')
    ]
    if wrong:
        raise CheckpointError(
            f'{name} has values that are not tensors: {first_few(wrong)}. {_EXPECTED}'
        )


def _innermost(content: Any, order: Sequence[str], depth: int) -> Any:
    """Return the content of all wrappers; of several, the first that has weights."""
    if not isinstance(content, Mapping) or not depth:
        return content
    inner = [content[k] for k in order if isinstance(content.get(k), Mapping)]
    found = [_innermost(mapping, order, depth - 1) for mapping in inner]
    for mapping in found:
        if any(isinstance(value, Tensor) for value in mapping.values()):
            return mapping
    return found[0] if found else content


def _check_regular(path: Path) -> None:
    """Raise CheckpointError if it is not a file; reading a pipe would block."""
    if '\0' in str(path):
        raise CheckpointError(f'{str(path)!r} is not a path: it contains a null byte')
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        inside = sorted(
            p.name for p in path.iterdir() if p.suffix in ('.pth', '.safetensors')
        )
        hint = f'; did you mean one of {first_few(inside)} in it?' if inside else ''
        raise CheckpointError(f'{shown(path)} is a directory{hint or ", not a file"}')
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f'{shown(path)} is a pipe or a device, not a file. Write its content to a '
            'file, and pass that'
        )


def _read_torch(file: BinaryIO, map_location: MapLocation, names: Names) -> Any:
    # torch.load itself would look at environment variables: one of them runs code, and
    # the other refuses any `pickle_module`, which is what makes this safe.
    serialization: Any = torch.serialization
    # Versions of PyTorch that know `weights_only` here check indices of sparse tensors.
    options = dict(encoding='utf-8', weights_only=True)
    zipped = zipfile.is_zipfile(file)
    file.seek(0)
    if not zipped:
        return serialization._legacy_load(file, map_location, Pickle(names), **options)
    with serialization._open_zipfile_reader(file) as archive:
        return serialization._load(archive, map_location, Pickle(names), **options)


def _read_safetensors(
    file: BinaryIO, name: str, map_location: MapLocation
) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(file.read())
    except (SafetensorError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise CheckpointError(
            f'{name} is a damaged .safetensors file: {error}. {AGAIN}'
        ) from error
    return _placed(state, name, map_location, PLAIN)


def _placed(content: Any, name: str, map_location: MapLocation, names: Names) -> Any:
    """Move tensors on the CPU to where `map_location` says."""
    if map_location in (None, 'cpu'):
        return content
    # PyTorch supports all forms of it.
    copy = io.BytesIO()
    torch.save(content, copy)
    copy.seek(0)
    return read_stream(copy, name, map_location, names)
