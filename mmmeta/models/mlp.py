"""The MLP of a block, and its branch in plain inference on a CPU.

oneDNN does the activation and the addition behind its convolutions. Where the map is
far larger than the weights, all else goes into copies of these: norm, layer scale,
StarReLU's scale and bias.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmeta.models.layers import (
    MapLayerNorm,
    StarReLU,
    activate,
    build_act,
    pointwise,
    post_op,
)
from mmmeta.ops import onednn
from mmmeta.ops.statistics import map_statistics

# The hidden map of an MLP is made in pieces of about this size, so that the memory of
# one piece serves all.
TILE_BYTES = 8 * 2**20
TILE_MIN = 2 * onednn.MANY  # positions; fewer are not worth a convolution's start


class Mlp(nn.Module):
    """Two pointwise layers with an activation between them (2111.11418, eq. 3).

    1x1 convolutions: on a CPU they are twice as fast as `nn.Linear` here.

    Args:
        dim: Number of input and output channels C.
        ratio: Hidden channels over C. Default: 4.
        act: Name of the activation. Default: 'GELU'.
        bias: Whether both layers have a bias. Default: True.
    """

    def __init__(
        self, dim: int, ratio: float = 4, act: str = 'GELU', bias: bool = True
    ) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Conv2d(dim, hidden, 1, bias=bias)
        self.act = build_act(act)
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(self.fc2, activate(self.act, self.fc1, x))


class Affine(NamedTuple):
    """`weight * x + bias` for each channel, (C,) each, or (1,) for all."""

    weight: Tensor
    bias: Tensor


def fold_weights(
    conv: nn.Module,
    before: Affine | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a convolution with what is around it folded in.

    Args:
        conv: The convolution, with `weight` and `bias`.
        before: What comes before it. Its bias is exact only without padding.
        scale: (out,), what its output is multiplied by.
        shift: (out,), what is added to that.
    """
    weight, bias = conv.weight, conv.bias
    if before is not None:
        constant = (weight * before.bias.view(1, -1, 1, 1)).sum((1, 2, 3))
        bias = constant if bias is None else bias + constant
        weight = weight * before.weight.view(1, -1, 1, 1)
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return weight, bias


def is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether a map is so large that folding into weights costs next to nothing."""
    return x.numel() >= max(2**20, 16 * weight.numel())


def normalise(
    x: Tensor, norm: nn.Module, weight: Tensor
) -> tuple[Tensor, Affine | None]:
    """Return norm(x); or x, and what normalises it if folded into `weight`.

    Mean and deviation of one large image's map are two numbers. In bfloat16 the map's
    mean would be lost in the rounding of the weights.
    """
    alone = len(x) == 1 and is_large(x, weight)
    if type(norm) is not MapLayerNorm or not alone or x.dtype != torch.float32:
        return norm(x), None
    mean, rstd = (t.flatten() for t in map_statistics(x, norm.eps))
    scale = norm.weight * rstd
    bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return x, Affine(scale, bias)


def in_tiles(
    x: Tensor, y: Tensor, hidden: int, add: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return add(x, y), done for some rows of large maps at a time.

    Args:
        x: (B, C, H, W), overwritten where it is cut.
        y: (B, C, H, W).
        hidden: Channels of the map between.
        add: Maps x and y, or rows of them, to the result, in the memory of x or not.
    """
    batch, _, height, width = x.shape
    row = width * hidden * x.element_size()
    if batch > 1 or row * height <= 3 * TILE_BYTES:
        return add(x, y)
    rows = max(TILE_BYTES // row, TILE_MIN // width, 1)
    tiles = -(-height // rows)
    rows = -(-height // tiles)  # alike, since weights are packed for one size
    for i in range(0, height, rows):
        tile = x[:, :, i : i + rows]
        result = add(tile, y[:, :, i : i + rows])
        if result.data_ptr() != tile.data_ptr():
            tile.copy_(result)
    return x


def add_mlp(
    x: Tensor,
    norm: nn.Module,
    mlp: Mlp,
    res_scale: Tensor | None,
    layer_scale: Tensor | None,
) -> Tensor:
    """Return `res_scale * x + layer_scale * mlp(norm(x))`, where oneDNN serves.

    Args:
        x: (B, C, H, W), which may be overwritten.
        norm: The norm.
        mlp: The MLP, with StarReLU or an activation that is a `post_op`.
        res_scale: (C,) or None.
        layer_scale: (C,) or None.
    """
    act, large = mlp.act, is_large(x, mlp.fc1.weight)
    star = type(act) is StarReLU
    y, before = normalise(x, norm, mlp.fc1.weight)
    first = fold_weights(mlp.fc1, before)
    after = Affine(act.scale, act.bias) if star and large else None
    second = fold_weights(mlp.fc2, after, layer_scale if large else None)

    def add(x: Tensor, y: Tensor) -> Tensor:
        hidden = onednn.pointwise(y, *first, post_op(act))
        if star:
            hidden = hidden.mul_(hidden) if large else act.square_(hidden)
        if res_scale is not None:
            x.mul_(res_scale.view(-1, 1, 1))
        if large or layer_scale is None:
            return onednn.add_pointwise_(x, hidden, *second)
        branch = onednn.pointwise(hidden, *second, 'none')
        return torch.addcmul(x, branch, layer_scale.view(-1, 1, 1), out=branch)

    return in_tiles(x, y, len(mlp.fc1.weight), add)
