"""Shared by all operators."""

import functools
from typing import Any

import torch
from torch import Tensor

OPS = torch.ops.torchvision
# Minimum sizes for multithreading: channels, and elements in total.
LEAST_CHANNELS, MANY = 32, 2**20
COMPILED = (
    'compile mmcv to get it: pip install --no-build-isolation --no-deps '
    '--force-reinstall --no-binary :all: onedl-mmcv (needs torch and a C++ compiler)'
)


def not_here(what: str) -> NotImplementedError:
    """Return the error for an operator, or a use of one, that is not implemented."""
    return NotImplementedError(
        f'{what} is not among the operators of mmcv that mmmeta provides; {COMPILED}'
    )


def widened(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in a dtype that all kernels support: float32 or float64."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    dtype = dtype if dtype == torch.float64 else torch.float32
    return [x.to(dtype) for x in tensors]


def pick(options: dict[str, Any], names: str) -> tuple:
    """Return the options called `names`, which are separated by blanks."""
    return tuple(options[name] for name in names.split())
