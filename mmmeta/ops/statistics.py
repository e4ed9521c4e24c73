"""Mean and deviation of whole maps, as `MapLayerNorm` takes them."""

import torch
from torch import Tensor

SMALL = 2**18  # elements of a map, up to which PyTorch's norm is faster than two sweeps


def map_statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sqrt(variance + eps) over (C, H, W) of each map.

    Large maps in float32 are read twice and nothing is written: a third of the time
    that PyTorch's norm takes, and `torch.var` over three dimensions takes many times
    more. Norms of rows keep float32 exact to 1e-7 where the mean is not far larger than
    the deviation; the relative error grows with the square of their ratio.

    Args:
        x: (B, C, H, W), fastest in channels_last memory.
        eps: Added to the variance.

    Returns:
        Two tensors (B, 1, 1, 1), float32 (float64 of float64).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if dtype != x.dtype or x[0].numel() <= SMALL:
        return _by_norm(x, eps, dtype)
    rows = x.permute(0, 2, 3, 1).flatten(2)  # (B, H, W * C)
    size = rows.shape[1] * rows.shape[2]
    mean = rows.sum((1, 2)) / size
    norms = torch.linalg.vector_norm(rows, dim=2)
    variance = (norms.square().sum(1) / size - mean.square()).clamp_min(0)
    return mean.view(-1, 1, 1, 1), (variance + eps).rsqrt().view(-1, 1, 1, 1)


def _by_norm(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`map_statistics` as what `group_norm` finds besides the normalised map."""
    batch, channels, height, width = x.shape
    weight = bias = None
    if dtype != x.dtype:  # with parameters of a wider dtype it returns wider statistics
        weight, bias = (
            x.new_ones(channels, dtype=dtype),
            x.new_zeros(channels, dtype=dtype),
        )
    _, mean, rstd = torch.native_group_norm(
        x, weight, bias, batch, channels, height * width, 1, eps
    )
    return mean.view(-1, 1, 1, 1), rstd.view(-1, 1, 1, 1)
