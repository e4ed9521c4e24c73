"""Blocks for inference on a CPU, computed from the plain ones' weights.

What a block does besides its convolutions is folded into their weights or done in the
map's own memory:

- PoolFormer's first branch. Average pooling that does not count the padding leaves a
  constant as it is, so the norm's mean and bias cancel in `pool(y) - y`:
  layer_scale * (pool(norm(x)) - norm(x)) = s * (pool(x) - x), s = layer_scale *
  weight / std, which is `lerp(x, pool(x), s)`.
- A batch norm goes into the pointwise convolution behind it, layer scale into the one
  before it. Of one large image a norm over the map goes there too, since its mean and
  deviation are two numbers.
- StarReLU: oneDNN's ReLU, then a square in place; its scale and bias go into the next
  layer.
- The second convolution of an MLP adds to the shortcut in place.

The plain reference is `mmmeta.models.metaformer.MetaFormerBlock`.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmeta.models.layers import ConvStem, Downsample, MapLayerNorm, StarReLU
from mmmeta.models.metaformer import MetaFormerBlock, residual, shortcut
from mmmeta.models.mlp import Affine, Mlp, fold_weights, in_tiles, normalise
from mmmeta.models.token_mixers import Attention, Identity, Pooling, SepConv
from mmmeta.ops.onednn import FusedConv, pointwise, post_op
from mmmeta.ops.pooling import mix_pooled
from mmmeta.ops.statistics import map_statistics


def fold_norm(norm: nn.Module) -> tuple[nn.Module, Affine | None]:
    """Split a norm into what is computed and what is folded: all of a batch norm."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return norm, None
    weight = (norm.running_var + norm.eps).rsqrt()
    bias = -weight * norm.running_mean
    if norm.affine:
        weight, bias = norm.weight * weight, norm.bias + norm.weight * bias
    return nn.Identity(), Affine(weight, bias)


def fold(
    conv: nn.Conv2d,
    before: Affine | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    act: str = 'none',
) -> FusedConv:
    """Return a convolution with what is around it folded in.

    Args:
        conv: The plain convolution.
        before: What comes before it. Its bias is exact only without padding.
        scale: (out,), what its output is multiplied by.
        shift: (out,), what is added to that.
        act: What follows, see `FusedConv`.
    """
    weight, bias = fold_weights(conv, before, scale, shift)
    return FusedConv(weight, bias, conv.stride, conv.padding, conv.groups, act)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return a convolution that does the batch norm behind it, and what is left."""
    left, affine = fold_norm(norm)
    if affine is None:
        return fold(conv), norm
    return fold(conv, scale=affine.weight, shift=affine.bias), left


class FusedAct(nn.Module):
    """What of an activation oneDNN does not do: nothing, or StarReLU's square.

    Attributes:
        post_op: What oneDNN does in the layer before.
        after: What is left for the layer behind: scale and bias, each (1,), or None.
    """

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.star = isinstance(act, StarReLU) and bool(act.scale != 0)
        done = 'relu' if self.star else post_op(act)
        self.post_op = done or 'none'
        self.act = None if done else act
        self.after = Affine(act.scale, act.bias) if self.star else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of a map that may be overwritten."""
        if self.star:
            return x.mul_(x)
        return x if self.act is None else self.act(x)


class Branch(nn.Module):
    """`x = res_scale * x + layer_scale * ...`, what the branches below have in common.

    They may overwrite their input. All are built from a plain block's parts:

    Args:
        norm: The plain norm.
        mixer: The plain token mixer (`FusedMlp`: the MLP).
        res_scale: (C,) or None.
        layer_scale: (C,) or None.
    """

    def __init__(self, res_scale: Tensor | None) -> None:
        super().__init__()
        self.register_buffer('res_scale', channelwise(res_scale))

    def shortcut_(self, x: Tensor) -> Tensor:
        return x if self.res_scale is None else x.mul_(self.res_scale)


class FusedMlp(Branch):
    """`x = res_scale * x + layer_scale * mlp(norm(x))`, in place."""

    def __init__(
        self,
        norm: nn.Module,
        mlp: Mlp,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__(res_scale)
        self.norm, affine = fold_norm(norm)
        self.act = FusedAct(mlp.act)
        self.fc1 = fold(mlp.fc1, before=affine, act=self.act.post_op)
        self.fc2 = fold(mlp.fc2, before=self.act.after, scale=layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        y, before = normalise(x, self.norm, self.fc1.weight)
        weights = before and fold_weights(self.fc1, before)

        def add(x: Tensor, y: Tensor) -> Tensor:
            z = pointwise(y, *weights, self.fc1.act) if weights else self.fc1(y)
            return self.fc2.add_(self.shortcut_(x), self.act(z))

        return in_tiles(x, y, len(self.fc1.weight), add)


class FusedPooling(Branch):
    """`x = res_scale * x + layer_scale * (pool(norm(x)) - norm(x))`."""

    def __init__(
        self,
        norm: MapLayerNorm,
        mixer: Pooling,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__(res_scale)
        self.eps = norm.eps
        scale = norm.weight if layer_scale is None else norm.weight * layer_scale
        self.register_buffer('scale', channelwise(scale))
        self.size = mixer.pool_size

    def forward(self, x: Tensor) -> Tensor:
        _, rstd = map_statistics(x, self.eps)
        scale = self.scale * rstd
        return mix_pooled(x, scale, self.size, self.res_scale)


class FusedIdentity(Branch):
    """`x = res_scale * x + layer_scale * norm(x)`, IdentityFormer's branch."""

    def __init__(
        self,
        norm: MapLayerNorm,
        mixer: Identity,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__(res_scale)
        self.eps = norm.eps
        weight = norm.weight
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias
        if layer_scale is not None:
            weight, bias = weight * layer_scale, bias * layer_scale
        self.register_buffer('scale', channelwise(weight))
        self.register_buffer('bias', channelwise(bias))

    def forward(self, x: Tensor) -> Tensor:
        mean, rstd = map_statistics(x, self.eps)
        scale = self.scale * rstd
        shift = (self.bias - mean * scale).to(x.dtype)
        scale = scale + (1 if self.res_scale is None else self.res_scale)
        return torch.addcmul(shift, x, scale.to(x.dtype))


class FusedSepConv(Branch):
    """`x = res_scale * x + layer_scale * sep_conv(norm(x))`, in place."""

    def __init__(
        self,
        norm: nn.Module,
        mixer: SepConv,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__(res_scale)
        self.norm, affine = fold_norm(norm)
        self.act = FusedAct(mixer.act1)
        self.pwconv1 = fold(mixer.pwconv1, before=affine, act=self.act.post_op)
        self.pwconv2 = fold(mixer.pwconv2, scale=layer_scale)
        after, shift = self.act.after, None
        if after is not None:
            # Behind the map's border are zeros, not StarReLU's bias: it goes before.
            shift = (after.bias / after.weight).view(-1, 1, 1) if after.bias else None
            after = Affine(after.weight, torch.zeros_like(after.bias))
        self.dwconv = fold(mixer.dwconv, scale=after and after.weight)
        self.register_buffer('shift', shift)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwconv1(self.norm(x))
        if self.shift is None:
            y = self.act(y)
        else:
            torch.addcmul(self.shift, y, y, out=y)
        return self.pwconv2.add_(self.shortcut_(x), self.dwconv(y))


class FusedMixer(Branch):
    """`x = res_scale * x + layer_scale * mixer(norm(x))`, for any mixer.

    Not in place: the branch may be a view of the input. The convolutions of attention
    become oneDNN's.
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__(res_scale)
        self.norm = norm
        self.mixer = copy.deepcopy(mixer)
        if type(mixer) is Attention:
            self.mixer.qkv = fold(mixer.qkv)
            self.mixer.proj = fold(mixer.proj, scale=layer_scale)
            layer_scale = None
        self.register_buffer('layer_scale', channelwise(layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.mixer(self.norm(x))
        return residual(shortcut(x, self.res_scale), branch, self.layer_scale)


class FusedBlock(nn.Module):
    """A `MetaFormerBlock` for inference; it may overwrite its input.

    Args:
        block: The plain block, whose weights are copied.
    """

    def __init__(self, block: MetaFormerBlock) -> None:
        super().__init__()
        self.pos_embed = None
        if block.pos_embed is not None:
            self.pos_embed = fold(block.pos_embed)
            self.pos_embed.weight[:, :, 1, 1] += 1  # the shortcut
        kind = self._kind(block.norm1, block.token_mixer)
        self.mixer = kind(
            block.norm1, block.token_mixer, block.res_scale1, block.layer_scale1
        )
        self.mlp = FusedMlp(
            block.norm2, block.mlp, block.res_scale2, block.layer_scale2
        )

    @staticmethod
    def _kind(norm: nn.Module, mixer: nn.Module) -> type[Branch]:
        if type(mixer) is SepConv:
            return FusedSepConv
        if type(norm) is MapLayerNorm and type(mixer) in (Pooling, Identity):
            return FusedPooling if type(mixer) is Pooling else FusedIdentity
        return FusedMixer

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = self.pos_embed(x)
        return self.mlp(self.mixer(x))


def channelwise(x: Tensor | None) -> Tensor | None:
    """Return a copy of (C,) as (C, 1, 1), for maps; None for None."""
    return None if x is None else x.detach().clone().view(-1, 1, 1)


def fuse_downsample(module: nn.Module) -> None:
    """Replace the convolutions of a downsampling by oneDNN's, in place."""
    if isinstance(module, ConvStem):
        for i in '12':
            names = f'conv{i}', f'norm{i}'
            fused = fold_batch_norm(*(getattr(module, name) for name in names))
            for name, part in zip(names, fused, strict=True):
                setattr(module, name, part)
    elif isinstance(module, Downsample):
        module.conv, module.post_norm = fold_batch_norm(module.conv, module.post_norm)
