"""Unpickling data but not code: what `torch.load` may build.

`torch.load(weights_only=True)` keeps one list of additional names for the process, and
threads change it under each other. Here each call has its own list, which `torch.load`
uses through its argument `pickle_module`.
"""

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
import types
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

Names = Mapping[str, Any]
# How pickles of protocol 2 and older call these modules.
_MODULES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}


class RefusedError(Exception):
    """A pickle refers to something that is not on the list; the message names it."""


class DamagedError(Exception):
    """The file contradicts itself; the message says where."""


class Pickle(types.ModuleType):
    """Takes the place of the module `pickle`, for `torch.load(pickle_module=...)`.

    Args:
        names: What the full names in a file stand for. Functions and classes may be
            called with any arguments that a file contains.
    """

    def __init__(self, names: Names) -> None:
        super().__init__('pickle')

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                path = f'{_MODULES.get(module, module)}.{name}'
                if path not in names:
                    raise RefusedError(path)
                return names[path]

        self.Unpickler = Unpickler

    def load(self, file: BinaryIO, **options: Any) -> Any:
        """Return what a pickle contains; `options` are those of `pickle.load`."""
        return self.Unpickler(file, **options).load()


def _rebuild_tensor(
    storage: Any, offset: int, size: Any, stride: Any, *more: Any
) -> Tensor:
    """Replace `_rebuild_tensor_v2`, which would enlarge a storage that is too small."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and not 0 <= last < storage._size():
        raise DamagedError('a tensor is larger than its storage')
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, *more)


def _bytes(content: Any = b'', encoding: str = 'latin1') -> bytes:
    """Replace `bytes`, whose form for N zeros could fill the memory."""
    if encoding not in ('latin1', 'latin-1', 'utf-8'):
        raise RefusedError(f'_codecs.encode({encoding!r})')
    return content.encode(encoding) if isinstance(content, str) else bytes(content[:])


def _range(*limits: int) -> range:
    """Replace `range`, of which others could be filled without end."""
    if len(found := range(*limits)) > 1_000_000:
        raise RefusedError(f'a {found}')
    return found


def _plain_data() -> dict[str, Any]:
    """Return the names of Python's and NumPy's plain data."""
    kinds = (set, frozenset, slice, complex, list, dict, tuple, int, float, str, bool)
    names: dict[str, Any] = {f'builtins.{kind.__name__}': kind for kind in kinds}
    for name in ('date', 'time', 'datetime', 'timedelta', 'timezone'):
        names[f'datetime.{name}'] = getattr(datetime, name)
    for package in ('pathlib', 'pathlib._local'):  # the latter in Python 3.13
        for name in ('PurePosixPath', 'PosixPath', 'Path'):
            names[f'{package}.{name}'] = pathlib.PurePosixPath
        for name in ('PureWindowsPath', 'WindowsPath'):
            names[f'{package}.{name}'] = pathlib.PureWindowsPath
    core = getattr(np, '_core', None) or np.core
    for package in ('numpy.core', 'numpy._core'):  # before NumPy 2, and since
        names[f'{package}.multiarray._reconstruct'] = core.multiarray._reconstruct
        names[f'{package}.multiarray.scalar'] = core.multiarray.scalar
        names[f'{package}.numeric._frombuffer'] = core.numeric._frombuffer
    return names | {
        'builtins.bytes': _bytes,
        '_codecs.encode': _bytes,  # how protocol 2 writes bytes
        'builtins.bytearray': lambda *content: bytearray(_bytes(*content)),
        'builtins.range': _range,
        'builtins.xrange': _range,  # in protocol 2
        'collections.OrderedDict': collections.OrderedDict,
        'collections.Counter': collections.Counter,
        'collections.defaultdict': collections.defaultdict,
        'collections.deque': collections.deque,
        'decimal.Decimal': decimal.Decimal,
        'types.SimpleNamespace': types.SimpleNamespace,
        'argparse.Namespace': argparse.Namespace,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
    }


PLAIN_DATA: Names = _plain_data()
TENSORS: Names = {
    **_get_allowed_globals(),
    **PLAIN_DATA,
    'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
}
