"""Unpickling data but not code, for `torch.load`.

`torch.load(weights_only=True)` has one process-wide list of additional names, which is
not thread-safe. Here each call has its own list, which `torch.load` uses through its
argument `pickle_module`.
"""

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

Names = Mapping[str, Any]
# Names of these modules in pickles of protocol 2 and older.
_MODULES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}


class RefusedError(Exception):
    """A pickle refers to something that is not on the list; the message names it."""


class DamagedError(Exception):
    """The file is inconsistent; the message says where."""


# Types that files name as values, such as a default factory, and never call.
_VALUES = (list, dict, tuple, int, float, str, bool, np.ndarray, Tensor)
_Base: Any = pickle._Unpickler  # the methods of the C one cannot be overridden
# Opcodes that reach past the names: other instances, the registry of extensions,
# references by text, buffers from outside.
_OTHERS = (
    *(pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class _Unpickler(_Base):
    """Calls the names alone, and sets the states of plain data alone.

    By itself the state of a pickle may set any attribute of any class or function in
    it, for the whole process, and make NumPy take bytes of the file for pointers.
    """

    names: Names
    dispatch = dict(_Base.dispatch)
    for _code in _OTHERS:
        del dispatch[_code[0]]

    def __init__(self, file: BinaryIO, *, encoding: str = 'utf-8', **_: Any) -> None:
        super().__init__(file, encoding=encoding, errors='surrogateescape')
        self.functions = {
            id(value)
            for value in self.names.values()
            if callable(value) and not any(value is kind for kind in _VALUES)
        }

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            if error.args and isinstance(error.args[0], int):
                raise pickle.UnpicklingError('unknown instruction') from error
            raise

    def find_class(self, module: str, name: str) -> Any:
        path = f'{_MODULES.get(module, module)}.{name}'
        if path not in self.names:
            raise RefusedError(path)
        return self.names[path]

    def _reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._call(function, args, {})

    def _newobj_ex(self) -> None:
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(function, args, kwargs)

    def _call(self, function: Any, args: Any, kwargs: Any) -> None:
        if id(function) not in self.functions:
            raise RefusedError(f'a call of {getattr(function, "__name__", function)!r}')
        self.append(function(*args, **kwargs))

    def _build(self) -> None:
        state, owner = self.stack.pop(), self.stack[-1]
        kind = np.dtype if isinstance(owner, np.dtype) else type(owner)
        if kind not in STATES:
            raise RefusedError(f'a state of {kind.__name__}')
        STATES[kind](owner, state)

    def _bytearray8(self) -> None:
        # Read, rather than made by the length that the file claims.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), 'little'))))

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _bytearray8,
    }


class Pickle(types.ModuleType):
    """Takes the place of the module `pickle` in PyTorch's reading of files.

    Args:
        names: Objects by full name in a file. Functions and classes may be called with
            any arguments that a file contains.
    """

    def __init__(self, names: Names) -> None:
        super().__init__('pickle')
        self.Unpickler = type('Unpickler', (_Unpickler,), {'names': names})

    def load(self, file: BinaryIO, **options: Any) -> Any:
        """Return a pickle's content; `options` are those of `pickle.load`."""
        return self.Unpickler(file, **options).load()


def _set_versions(owner: Any, state: Any) -> None:
    """Set a state_dict's versions of modules, and nothing that could hide a method."""
    if '_metadata' in state:
        owner._metadata = state['_metadata']


def set_attributes(owner: Any, state: Any) -> None:
    """Set the attributes of a plain namespace."""
    vars(owner).update({str(key): state[key] for key in state})


def _set_dtype(dtype: Any, state: Any) -> None:
    """Set the byte order: NumPy does not check sizes, offsets and flags."""
    _, order, *parts, size, alignment, flags = state
    plain = parts == [None] * 3 and order in ('<', '>', '|', '=')
    own = (dtype.itemsize, dtype.alignment, dtype.flags)
    told = zip((size, alignment, flags), own, (-1, -1, 0), strict=True)
    if not plain or any(value not in (right, unset) for value, right, unset in told):
        raise RefusedError(f'a NumPy dtype of {state}')
    dtype.__setstate__(state)


def _set_array(array: np.ndarray, state: Any) -> None:
    _plain(state[2])
    array.__setstate__(state)


# What sets an object's state, by its type; what stands for other classes adds its own.
STATES: dict[type, Callable[[Any, Any], None]] = {
    collections.OrderedDict: _set_versions,
    types.SimpleNamespace: set_attributes,
    argparse.Namespace: set_attributes,
    np.dtype: _set_dtype,
    np.ndarray: _set_array,
}


def _plain(dtype: Any) -> np.dtype:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise RefusedError('NumPy objects')
    return dtype


def _dtype(code: Any, *_: Any) -> np.dtype:
    """Replace `numpy.dtype`: a copy, whose byte order may be set."""
    if not isinstance(code, str) or not re.fullmatch(r'[?a-zA-Z]\d{0,9}', code):
        raise RefusedError(f'numpy.dtype({code!r})')
    return np.dtype(code, copy=True)


def _array(*_: Any) -> np.ndarray:
    """Replace `numpy.core.multiarray._reconstruct`; the state follows."""
    return np.ndarray(0, 'b')


def _scalar(dtype: Any, content: Any) -> Any:
    """Replace `numpy.core.multiarray.scalar`."""
    return np.frombuffer(content, _plain(dtype), 1)[0]


def _buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Replace `numpy.core.numeric._frombuffer`, of protocol 5."""
    return np.frombuffer(content, _plain(dtype)).reshape(shape, order=order)


def _defaultdict(factory: Any = None) -> dict[Any, Any]:
    if factory not in (None, list, dict, set, tuple, int, float, str, bool):
        raise RefusedError(f'a defaultdict of {factory!r}')
    return collections.defaultdict(factory)


def _rebuild_tensor(
    storage: Any, offset: int, size: Any, stride: Any, *more: Any
) -> Tensor:
    """Replace `_rebuild_tensor_v2`, which would enlarge a too small storage."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and not 0 <= last < storage._size():
        raise DamagedError('a tensor is larger than its storage')
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, *more)


def _bytes(content: Any = b'', encoding: str = 'latin1') -> bytes:
    """Replace `bytes`, which could fill the memory with N zeros."""
    if encoding not in ('latin1', 'latin-1', 'utf-8'):
        raise RefusedError(f'_codecs.encode({encoding!r})')
    return content.encode(encoding) if isinstance(content, str) else bytes(content[:])


def _range(*limits: int) -> range:
    """Replace `range`, whose values could fill other containers endlessly."""
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
    for package in ('numpy.core', 'numpy._core'):  # before NumPy 2, and since
        names[f'{package}.multiarray._reconstruct'] = _array
        names[f'{package}.multiarray.scalar'] = _scalar
        names[f'{package}.numeric._frombuffer'] = _buffer
    return names | {
        'builtins.bytes': _bytes,
        '_codecs.encode': _bytes,  # how protocol 2 writes bytes
        'builtins.bytearray': lambda *content: bytearray(_bytes(*content)),
        'builtins.range': _range,
        'builtins.xrange': _range,  # in protocol 2
        'collections.OrderedDict': collections.OrderedDict,
        'collections.Counter': collections.Counter,
        'collections.defaultdict': _defaultdict,
        'collections.deque': collections.deque,
        'decimal.Decimal': decimal.Decimal,
        'types.SimpleNamespace': types.SimpleNamespace,
        'argparse.Namespace': argparse.Namespace,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': _dtype,
    }


PLAIN_DATA: Names = _plain_data()
TENSORS: Names = {
    **_get_allowed_globals(),
    **PLAIN_DATA,
    'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
}
