"""In which memory a backbone works and hands on its maps: decided here for all."""

import sys

import torch
from torch import Tensor

from mmmeta.ops.guards import in_transform


@torch.compiler.assume_constant_result
def strides_are_read() -> bool:
    """Whether all that cuts regions out of maps in this process looks at their strides.

    mmcv's compiled operators do not: they take any memory for a contiguous one, and
    cut regions out of scrambled maps. Those in `mmmeta.hosts.mmcv_ops` do.
    """
    operators = sys.modules.get('mmcv._ext')
    return operators is None or getattr(operators, 'READS_STRIDES', None) is True


def take_in(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) in the memory format that layers are fastest in.

    That is channels_last on a CPU, but not within `vmap`, which knows no formats.
    """
    if x.device.type != 'cpu' or (not torch.compiler.is_compiling() and in_transform()):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def hand_on(x: Tensor) -> Tensor:
    """Return a map (B, C, H, W) in memory that the layers behind a backbone can read.

    As it is (channels_last on a CPU) where strides are read, else contiguous.
    """
    if strides_are_read() or x.is_contiguous():
        return x
    if len(x) > 1 or torch.compiler.is_compiling():
        return x.contiguous()
    # PyTorch turns a matrix over faster than a map.
    return x[0].flatten(1).contiguous().view(x.shape)
