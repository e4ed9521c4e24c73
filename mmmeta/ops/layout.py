"""The memory format in which a backbone works and returns its maps."""

import sys

import torch
from torch import Tensor

from mmmeta.ops.guards import in_transform


@torch.compiler.assume_constant_result
def strides_are_read() -> bool:
    """Whether the RoI operators in this process respect the strides of maps.

    mmcv's compiled operators do not: they treat any memory as contiguous and would read
    the wrong values. Those in `mmmeta.hosts.mmcv_ops` do.
    """
    operators = sys.modules.get('mmcv._ext')
    return operators is None or getattr(operators, 'READS_STRIDES', None) is True


def take_in(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) in the fastest memory format for the layers.

    This is channels_last on a CPU, except within `vmap`, which does not support it.
    """
    if x.device.type != 'cpu' or (not torch.compiler.is_compiling() and in_transform()):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def hand_on(x: Tensor) -> Tensor:
    """Return a map (B, C, H, W) in a memory format that the following layers can read.

    It is unchanged (channels_last on a CPU) if strides are respected, else contiguous.
    """
    if strides_are_read() or x.is_contiguous():
        return x
    if len(x) > 1 or torch.compiler.is_compiling():
        return x.contiguous()
    # PyTorch transposes a matrix faster than it converts a map.
    return x[0].flatten(1).contiguous().view(x.shape)
