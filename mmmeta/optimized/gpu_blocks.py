"""Blocks for inference on a GPU, computed by the kernels of `gpu_kernels`.

A norm over whole maps is one affine map for each sample, y = rstd * (x - mean) * weight
+ bias, so it is computed where the map is read anyway. With s = layer_scale * weight *
rstd, r the scale of the shortcut and W = fc1.weight * norm2.weight,

    branch 1:  r * x + s * (pool(x) - x)          mean and bias cancel, as in `blocks`
    branch 2:  r * x + fc2(act(rstd * (W x) + shift))
               shift = fc1.bias + fc1.weight norm2.bias - rstd * mean * (W 1)

and layer scale and StarReLU's scale and bias go into fc2. A block is: pooling (one map
read, one written), fc1, an activation in place, fc2, an addition in place.

The plain reference is `mmmeta.models.metaformer.MetaFormerBlock`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.models.layers import MapLayerNorm, StarReLU
from mmmeta.models.metaformer import MetaFormer, MetaFormerBlock
from mmmeta.models.mlp import Mlp
from mmmeta.models.token_mixers import Identity, Pooling
from mmmeta.ops.gpu_kernels import (
    add_branch,
    map_partials,
    norm_act_,
    norm_factors,
    pool_mix,
)
from mmmeta.optimized.blocks import is_foldable

ACTS = {nn.GELU: 'gelu', StarReLU: 'star', nn.Identity: 'none'}


class MapNorm(nn.Module):
    """`MapLayerNorm`, from the partials of the map where these are known.

    Args:
        norm: The plain norm.
        scale: (C,), what its output is multiplied by, or None.
    """

    def __init__(self, norm: MapLayerNorm, scale: Tensor | None = None) -> None:
        super().__init__()
        self.eps = norm.eps
        weight, bias = _affine(norm)
        scale = torch.ones_like(weight) if scale is None else scale.float()
        self.register_buffer('weight', weight * scale)
        self.register_buffer('bias', bias * scale)

    def factors(self, x: Tensor, partials: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (B, C), of `scale * x + shift`."""
        size = x[0].numel()
        return norm_factors(partials, size, self.eps, self.weight, self.bias)[1:]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        scale, shift = self.factors(x, map_partials(x))
        return add_branch(x, None, shift, scale)[0]


class Mixed(nn.Module):
    """The first branch of a block, of pooling over 3x3 or no mixing at all."""

    def __init__(self, block: MetaFormerBlock) -> None:
        super().__init__()
        self.pools = type(block.token_mixer) is Pooling
        self.norm = MapNorm(block.norm1, block.layer_scale1)
        self.register_buffer('shortcut', _copy(block.res_scale1))

    def forward(self, x: Tensor, partials: Tensor) -> tuple[Tensor, Tensor]:
        """Return a new map, and its partials."""
        scale, shift = self.norm.factors(x, partials)
        if self.pools:
            return pool_mix(x, scale, self.shortcut)
        scale += 1 if self.shortcut is None else self.shortcut
        return add_branch(x, None, shift, scale)


class AddedMlp(nn.Module):
    """The second branch of a block."""

    def __init__(self, block: MetaFormerBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = block.norm2.eps
        self.act = ACTS[type(block.mlp.act)]
        self.register_buffer('shortcut', _copy(block.res_scale2))
        self._fold_first(block.norm2, block.mlp, dtype)
        self._fold_second(block.mlp, block.layer_scale2, dtype)

    def _fold_first(self, norm: MapLayerNorm, mlp: Mlp, dtype: torch.dtype) -> None:
        weight, bias = mlp.fc1.weight.float(), mlp.fc1.bias
        scale, shift = (x.view(-1, 1, 1) for x in _affine(norm))
        self.register_buffer('weight1', (weight * scale).to(dtype))
        # Of the weights as rounded, so that the mean goes as it came.
        self.register_buffer('sums1', self.weight1.float().sum((1, 2, 3)))
        constant = (weight * shift).sum((1, 2, 3))
        bias = constant if bias is None else constant + bias.float()
        self.register_buffer('bias1', bias)

    def _fold_second(
        self, mlp: Mlp, layer_scale: Tensor | None, dtype: torch.dtype
    ) -> None:
        weight, bias = _copy(mlp.fc2.weight), _copy(mlp.fc2.bias)
        if self.act == 'star':
            constant = weight.sum((1, 2, 3)) * mlp.act.bias.float()
            bias = constant if bias is None else bias + constant
            weight = weight * mlp.act.scale.float()
        if layer_scale is not None:
            weight = weight * layer_scale.float().view(-1, 1, 1, 1)
            bias = None if bias is None else bias * layer_scale.float()
        self.register_buffer('weight2', weight.to(dtype))
        self.register_buffer('bias2', bias)

    def forward(self, x: Tensor, partials: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map, written over `x`, and its partials."""
        rstd, _, shift = norm_factors(
            partials, x[0].numel(), self.eps, self.sums1, self.bias1
        )
        hidden = norm_act_(_pointwise(x, self.weight1), rstd, shift, self.act)
        branch = _pointwise(hidden, self.weight2)
        return add_branch(x, branch, self.bias2, self.shortcut, inplace=True)


class Blocks(nn.Module):
    """All blocks of a stage; they leave their input alone.

    Args:
        blocks: The plain blocks, whose weights are copied.
        dtype: What the maps will be in. Scales, biases and sums stay float32.
    """

    def __init__(self, blocks: nn.ModuleList, dtype: torch.dtype) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            branch
            for block in blocks
            for branch in (Mixed(block), AddedMlp(block, dtype))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        partials = map_partials(x)
        for branch in self.branches:
            x, partials = branch(x, partials)
        return x


def is_supported(block: nn.Module) -> bool:
    """Whether `Blocks` can compute a block."""
    if not isinstance(block, MetaFormerBlock) or block.pos_embed is not None:
        return False
    if not is_foldable(block):
        return False
    mixer, act = block.token_mixer, block.mlp.act
    pools = type(mixer) is Pooling and mixer.pool_size == 3
    return (
        type(block.norm1) is type(block.norm2) is MapLayerNorm
        and (pools or type(mixer) is Identity)
        and type(act) in ACTS
        and getattr(act, 'approximate', 'none') == 'none'
    )


def to_triton(backbone: MetaFormer, dtype: torch.dtype) -> MetaFormer:
    """Give a backbone's stages the blocks above, and its outputs `MapNorm`, in place.

    A stage with another kind of block stays as it is.

    Args:
        backbone: For inference, without gradients.
        dtype: `torch.float32`, `torch.bfloat16` or `torch.float16`.

    Raises:
        UserError: No stage has only blocks that are supported.
    """
    fast = {
        i: Blocks(stage.blocks, dtype)
        for i, stage in enumerate(backbone.stages)
        if all(is_supported(block) for block in stage.blocks)
    }
    if not fast:
        raise UserError(
            "backend 'triton' is for stages of pooling over 3x3 or no mixing, with "
            'norms over whole maps and GELU or StarReLU (PoolFormer, PoolFormerV2, '
            f"IdentityFormer); {backbone.family} has none: use backend='inductor'"
        )
    norms = {
        name: MapNorm(norm)
        for name, norm in backbone.named_children()
        if type(norm) is MapLayerNorm
    }
    # Behind the folding, which starts from the weights as they were.
    backbone.to(dtype, memory_format=torch.channels_last)
    for i, blocks in fast.items():
        backbone.stages[i].blocks = nn.ModuleList([blocks])
    for name, norm in norms.items():
        setattr(backbone, name, norm)
    return backbone


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    # Not `linear`: the plain model's float32 is that of convolutions (TF32 by default).
    y = F.conv2d(x, weight)
    return y.contiguous(memory_format=torch.channels_last)  # cuDNN's is already


def _affine(norm: MapLayerNorm) -> tuple[Tensor, Tensor]:
    weight = norm.weight.float()
    return weight, torch.zeros_like(weight) if norm.bias is None else norm.bias.float()


def _copy(x: Tensor | None) -> Tensor | None:
    """Return a float32 copy; None for None."""
    return None if x is None else x.detach().float().clone()
