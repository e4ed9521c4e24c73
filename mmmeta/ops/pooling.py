"""Average pooling that does not count the padding, and its mixture with the input.

On a CPU oneDNN's depthwise convolution sums the 3x3 windows of a large map in half the
time of `avg_pool2d`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmeta.ops import onednn

LARGE = 2**20  # elements of a map; with fewer the convolution's start costs more


def average_pool(x: Tensor, size: int) -> Tensor:
    """Return the mean of the positions inside the map of each window, stride 1.

    Args:
        x: (B, C, H, W).
        size: Side of the window, odd.
    """
    if not _sums_by_convolution(x, size):
        return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
    return _mix_by_convolution(x, x.new_ones(x.shape[1], 1, 1), None)


def mix_pooled(
    x: Tensor, scale: Tensor, size: int, res_scale: Tensor | None = None
) -> Tensor:
    """Return `res_scale * x + scale * (average_pool(x) - x)`.

    Args:
        x: (B, C, H, W).
        scale: (1 or B, C, 1, 1).
        size: Side of the window, odd.
        res_scale: (C, 1, 1); None for 1.
    """
    if len(x) == 1 and _sums_by_convolution(x, size):
        return _mix_by_convolution(x, scale[0], res_scale)
    scale = scale.to(x.dtype)
    pooled = average_pool(x, size)
    if res_scale is None:
        return torch.lerp(x, pooled, scale, out=pooled)
    return torch.addcmul(x * (res_scale - scale), pooled, scale, out=pooled)


def _sums_by_convolution(x: Tensor, size: int) -> bool:
    return (
        size == 3
        and x.device.type == 'cpu'
        and x.dtype == torch.float32  # bfloat16 has no ninth: the mean would shift
        and x.numel() >= LARGE
        and min(x.shape[2:]) > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and onednn.is_available()
    )


def _mix_by_convolution(x: Tensor, scale: Tensor, res_scale: Tensor | None) -> Tensor:
    """`mix_pooled` in one sweep: the input's own share is the kernel's centre."""
    own = (1 if res_scale is None else res_scale) - scale
    weight = (scale / 9).repeat(1, 3, 3).unsqueeze(1)
    weight[:, :, 1, 1] += own[..., 0]
    mixed = onednn.depthwise(x, weight)
    # It counts the padding: a border has six positions of nine, a corner four.
    own = own[..., 0]
    for edge in (0, -1):
        mixed[:, :, edge].lerp_(own * x[:, :, edge], -0.5)
        mixed[:, :, :, edge].lerp_(own * x[:, :, :, edge], -0.5)
    return mixed
