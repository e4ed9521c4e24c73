"""Checkpoints in parts: folders to which each of several processes writes its own.

PyTorch's distributed checkpoints, as .safetensors files, of what is spread over the
processes. All else is in `run.pth`, an ordinary checkpoint of MMEngine that lacks these
tensors; it is written last and says which files belong to it.
"""

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.kinds import AGAIN

SUFFIX = '.dcp'  # of folders
RUN = 'run.pth'
PARTS = 'parts'  # in the `meta` of it
PARTED = '*.safetensors'
WEIGHT, STATE = 'state_dict', 'optimizer'  # how the tensors' names begin


def is_parted(path: Path) -> bool:
    """Whether a path is such a folder, be it complete or not."""
    return (path / RUN).is_file() or (path.suffix == SUFFIX and path.is_dir())


def can_write_parts() -> bool:
    """Whether this PyTorch can."""
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter as Writer
    except ImportError:
        return False
    return 'save_distributed' in inspect.signature(Writer).parameters


def take_out(
    weights: dict[str, Any], states: dict[int, dict[str, Any]]
) -> dict[str, Tensor]:
    """Take the tensors that are spread over processes out of a checkpoint.

    Args:
        weights: A model's state_dict.
        states: An optimizer's `state`, by the parameters' numbers.

    Returns:
        Them by name.
    """
    from torch.distributed.tensor import DTensor

    found: dict[str, Tensor] = {}
    for name in [k for k, v in weights.items() if isinstance(v, DTensor)]:
        found[f'{WEIGHT}.{name}'] = weights.pop(name)
    for number, state in states.items():
        for key in [k for k, v in state.items() if isinstance(v, DTensor)]:
            found[f'{STATE}.{number}.{key}'] = state.pop(key)
    return found


def write_parts(folder: str, tensors: dict[str, Tensor]) -> None:
    """Write the own part of each tensor; to be called in all processes.

    Raises:
        OSError: In all of them, if one cannot write.
    """
    from torch.distributed.checkpoint import CheckpointException, save
    from torch.distributed.checkpoint import HuggingFaceStorageWriter as Writer

    try:
        save(tensors, storage_writer=Writer(folder, save_distributed=True))
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise first if isinstance(first, OSError) else OSError(str(first)) from error


def describe(folder: str, weights: Iterable[str]) -> dict[str, Any]:
    """Return what `run.pth` says about the other files.

    Args:
        folder: The folder, once all have written.
        weights: The names of all weights, in order.
    """
    return dict(files=_sizes(Path(folder)), weights=list(weights))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob(PARTED)}


def put_back(content: Any, folder: Path) -> Any:
    """Complete the content of `run.pth` to that of an ordinary checkpoint.

    Raises:
        CheckpointError: A file is missing, or does not belong to it.
    """
    parts = content['meta'].pop(PARTS)
    found = _sizes(folder)
    for name in sorted({*parts['files'], *found}):
        size, expected = found.get(name, 'no'), parts['files'].get(name, 'no')
        if size != expected:
            raise CheckpointError(
                f'{folder} is not complete: {name} has {size} bytes, expected '
                f'{expected}. {AGAIN}'
            )
    state = dict(content['state_dict'])
    for name, tensor in _read(folder).items():
        kind, _, rest = name.partition('.')
        if kind == WEIGHT:
            state[rest] = tensor
        else:
            number, _, key = rest.partition('.')
            content['optimizer']['state'].setdefault(int(number), {})[key] = tensor
    content['state_dict'] = {name: state[name] for name in parts['weights']}
    if 'optimizer' in content:
        states: Mapping[int, Any] = content['optimizer']['state']
        content['optimizer']['state'] = {n: states[n] for n in sorted(states)}
    return content


def _read(folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import CheckpointException, load
    from torch.distributed.checkpoint import HuggingFaceStorageReader as Reader

    kinds: Any = Reader(str(folder)).read_metadata().state_dict_metadata
    for name, kind in kinds.items():
        if sum(math.prod(c.sizes) for c in kind.chunks) != math.prod(kind.size):
            raise ValueError(f'{name} is not complete')
    tensors: dict[str, Tensor] = {
        name: torch.empty(kind.size, dtype=kind.properties.dtype)
        for name, kind in kinds.items()
    }
    try:
        with warnings.catch_warnings():  # without processes it says that there are none
            warnings.simplefilter('ignore')
            load(tensors, storage_reader=Reader(str(folder)), no_dist=True)
    except CheckpointException as error:  # no Exception, which others expect
        raise ValueError(str(next(iter(error.failures.values()))[0])) from error
    return tensors
