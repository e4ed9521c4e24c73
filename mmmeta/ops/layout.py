"""In which memory a backbone works and hands on its maps: decided here for all."""

import sys

import torch
from torch import Tensor


@torch.compiler.assume_constant_result
def strides_are_read() -> bool:
    """Whether all that cuts regions out of maps in this process looks at their strides.

    mmcv's compiled operators do not: they take any memory for a contiguous one, and
    cut regions out of scrambled maps. Those in `mmmeta.hosts.mmcv_ops` do.
    """
    operators = sys.modules.get('mmcv._ext')
    return operators is None or getattr(operators, 'READS_STRIDES', None) is True


def take_in(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) in the memory format that layers are fastest in."""
    if x.device.type != 'cpu':
        return x
    try:
        return x.contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # `vmap` over images knows no memory format
        return x


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
