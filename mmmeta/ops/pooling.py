"""What the pooling branch does with a map: pool(x) - x, and its mixture.

Pooling is the average over the positions of a window that are inside the map, at stride
1. On a CPU oneDNN's depthwise convolution sums the 3x3 windows of a large map in half
the time of `avg_pool2d`, and takes the input's own share along as the kernel's centre.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmeta.ops import onednn

LARGE = 2**19  # elements of a map; with fewer the convolution's start costs more


def pool_apart(x: Tensor, size: int) -> Tensor:
    """Return `pool(x) - x`.

    Args:
        x: (B, C, H, W).
        size: Side of the window, odd.
    """
    if x.dtype == torch.float32 and _sums_by_convolution(x, size):
        scale = x.new_ones(x.shape[1], 1, 1)
        return _convolve(x, -scale, scale)
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False).sub_(x)


def mix_pooled(
    x: Tensor, scale: Tensor, size: int, res_scale: Tensor | None = None
) -> Tensor:
    """Return `res_scale * x + scale * (pool(x) - x)`.

    Args:
        x: (B, C, H, W).
        scale: (1 or B, C, 1, 1).
        size: Side of the window, odd.
        res_scale: (C, 1, 1); None for 1.
    """
    if len(x) == 1 and _sums_by_convolution(x, size):
        if x.dtype == torch.bfloat16:
            return _mix_in_bfloat16(x, scale[0], res_scale)
        own = (1 if res_scale is None else res_scale) - scale[0]
        return _convolve(x, own, scale[0])
    scale = scale.to(x.dtype)
    apart = pool_apart(x, size)
    base = x if res_scale is None else x * res_scale
    return torch.addcmul(base, apart, scale, out=apart)


def _sums_by_convolution(x: Tensor, size: int) -> bool:
    return (
        size == 3
        and x.device.type == 'cpu'
        and x.dtype in onednn.dtypes()
        and x.numel() >= LARGE
        and min(x.shape[2:]) > 1
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _convolve(x: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """`own * x + scale * pool(x)` in one sweep, each (C, 1, 1)."""
    kernel = (scale / 9).repeat(1, 3, 3).unsqueeze(1)
    kernel[:, :, 1, 1] += own[..., 0]
    return _mend_border(onednn.convolve(x, kernel, None, _depthwise(x)), x, own)


def _mix_in_bfloat16(x: Tensor, scale: Tensor, res_scale: Tensor | None) -> Tensor:
    """`mix_pooled` with a kernel that sums to zero.

    There is no ninth in bfloat16, and a kernel that rounds would shift the map's mean;
    eight times a number is exact.
    """
    ninth = (scale / 9).to(x.dtype)
    kernel = ninth.repeat(1, 3, 3).unsqueeze(1)
    kernel[:, :, 1, 1] *= -8
    out = x.clone() if res_scale is None else x * res_scale
    own = (1 if res_scale is None else res_scale) - 9 * ninth.float()
    return _mend_border(
        onednn.add_convolved_(out, x, kernel, None, _depthwise(x)), x, own
    )


def _depthwise(x: Tensor) -> tuple:
    return [1, 1], [1, 1], [1, 1], x.shape[1]


def _mend_border(mixed: Tensor, x: Tensor, own: Tensor) -> Tensor:
    """Take nine positions for the six that a window at a border has, four at a corner.

    Args:
        mixed: own * x + nine positions' average, with zeros around the map.
        x: The map.
        own: (C, 1, 1), float32.
    """
    own = own[..., 0]
    for edge in (0, -1):
        for line in ((..., edge, slice(None)), (..., edge)):
            mixed[line] = torch.lerp(mixed[line].float(), own * x[line], -0.5)
    return mixed
