"""Blocks for inference on a CPU, built from the plain blocks' weights.

The other operations of a block are folded into its convolutions' weights or computed in
place on a map that the block created:

- A batch norm is folded into the pointwise convolution after it, layer scale into the
  one before it; the weights are kept in oneDNN's own layout.
- The last convolution of an MLP adds to the shortcut in place.

The plain reference is `mmmeta.models.metaformer.MetaFormerBlock`.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmeta.models.fast import (
    KNOWN,
    fusable,
    has_usual_layers,
    is_pointwise,
    residual,
)
from mmmeta.models.layers import ConvStem, Downsample, StarReLU
from mmmeta.models.metaformer import MetaFormerBlock
from mmmeta.models.mlp import Mlp
from mmmeta.models.token_mixers import Attention, Pooling, SepConv
from mmmeta.ops import guards, onednn

# Their convolutions, each with the norm after it.
DOWNSAMPLES = {
    Downsample: [('conv', 'post_norm')],
    ConvStem: [('conv1', 'norm1'), ('conv2', 'norm2')],
}
FOLDABLE = guards.remember((MetaFormerBlock, *DOWNSAMPLES)) | KNOWN


class Affine(NamedTuple):
    """`weight * x + bias` for each channel, (C,) each."""

    weight: Tensor
    bias: Tensor


class FusedConv(nn.Module):
    """A convolution followed by an activation or an in-place addition.

    Works on a CPU, without gradients, in the dtypes of `mmmeta.ops.onednn`.

    Args:
        conv: The plain convolution, whose weights are copied.
        before: A batch norm before it. Its bias is exact only without padding.
        after: A batch norm after it.
        scale: (out,), factors of the output after that norm.
        act: The activation that follows, a key of `onednn.POST_OPS`. Default: 'none'.
        star: A StarReLU that follows, with one scale and one bias.
            Default: None.
    """

    weight: Tensor
    bias: Tensor | None
    star_scale: Tensor | None
    star_bias: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        before: Affine | None = None,
        after: Affine | None = None,
        scale: Tensor | None = None,
        act: str = 'none',
        star: StarReLU | None = None,
    ) -> None:
        super().__init__()
        weight, bias = conv.weight, conv.bias
        if before is not None:
            constant = (weight * before.bias.view(1, -1, 1, 1)).sum((1, 2, 3))
            bias = constant if bias is None else bias + constant
            weight = weight * before.weight.view(1, -1, 1, 1)
        if after is not None:
            weight = weight * after.weight.view(-1, 1, 1, 1)
            bias = after.bias if bias is None else after.bias + bias * after.weight
        if scale is not None:
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = None if bias is None else bias * scale
        self.register_buffer('weight', weight.detach().clone().contiguous())
        self.register_buffer('bias', None if bias is None else bias.detach().clone())
        self.geometry = ([*conv.padding], [*conv.stride], [1, 1], conv.groups)
        self.is_pointwise = is_pointwise(conv)
        self.act = act
        self.register_buffer('star_scale', copied(star.scale if star else None))
        self.register_buffer('star_bias', copied(star.bias if star else None))
        self._packed: tuple[Any, Tensor | None] = None, None

    def forward(self, x: Tensor) -> Tensor:
        """Return act(conv(x)), (B, out, H', W'), for x (B, in, H, W)."""
        exact = x.dtype != torch.float32 or onednn.multiplies_exactly()
        if self.is_pointwise and exact:
            y = onednn.pointwise(x, self._matrix(), self.bias, self.act)
        else:
            kernel = self._kernel(x)
            y = onednn.convolve(x, kernel, self.bias, self.geometry, self.act)
        if self.star_scale is None or self.star_bias is None:
            return y
        y = y.relu_()
        scale = self.star_scale.item()
        return torch.addcmul(self.star_bias, y, y, value=scale, out=y)

    def add_(self, out: Tensor, x: Tensor) -> Tensor:
        """Add conv(x) to `out`, (B, out, H', W'), in place, and return it."""
        kernel = self._kernel(x)
        return onednn.add_convolved_(out, x, kernel, self.bias, self.geometry)

    # Key and weight are replaced together, so concurrent threads see a matching pair.
    def _matrix(self) -> Tensor:
        key, packed = self._packed
        if packed is None or key != self._state():
            packed = onednn.pack_pointwise(self.weight)
            self._packed = self._state(), packed
        return packed

    def _kernel(self, x: Tensor) -> Tensor:
        """Return the weight, in oneDNN's own layout if the input shape is repeated.

        Otherwise oneDNN reorders it at every call, which takes longer than the
        arithmetic on small maps. The layout depends on the shape and can be very slow
        for another one.
        """
        key, packed = self._packed
        wanted = *self._state(), *x.shape
        if key != wanted:
            self._packed = wanted, None
            return self.weight
        if packed is None:
            packed = onednn.pack(self.weight, self.geometry, x.shape)
            self._packed = wanted, packed
        return packed

    # Not `_version`: PyTorch stores an attribute of that name in every state_dict.
    def _state(self) -> tuple[int, int, torch.dtype]:
        w = self.weight
        return w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._packed = None, None  # inference mode does not track versions

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        super()._apply(*args, **kwargs)
        self._packed = None, None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(_packed=(None, None))  # packed again when used

    def extra_repr(self) -> str:
        padding, stride, _, groups = self.geometry
        return (
            f'{tuple(self.weight.shape)}, stride={stride}, padding={padding}, '
            f'groups={groups}, act={self.act}'
        )


class MixedBranch(nn.Module):
    """`res_scale * x + layer_scale * mixer(norm(x))`, for any mixer."""

    res_scale: Tensor | None
    layer_scale: Tensor | None

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.mixer = copy.deepcopy(mixer)
        self.ours = type(mixer) in (Attention, Pooling, SepConv)
        if type(mixer) is SepConv:
            self.norm, affine = split_norm(self.norm, mixer.pwconv1)
            self.mixer.pwconv1, self.mixer.act1 = fuse_act(
                mixer.pwconv1, mixer.act1, affine
            )
            self.mixer.dwconv = FusedConv(mixer.dwconv)
            self.mixer.pwconv2 = FusedConv(mixer.pwconv2, scale=layer_scale)
            layer_scale = None
        elif type(mixer) is Attention:
            self.mixer.qkv = FusedConv(mixer.qkv)
            self.mixer.proj = FusedConv(mixer.proj, scale=layer_scale)
            layer_scale = None
        self.register_buffer('res_scale', copied(res_scale))
        self.register_buffer('layer_scale', copied(layer_scale))

    def forward(self, x: Tensor, overwrite: bool) -> Tensor:
        """Return a new map, in an intermediate one's memory if `overwrite`."""
        branch = self.mixer(self.norm(x))
        overwrite = overwrite and self.ours
        return residual(x, branch, self.res_scale, self.layer_scale, overwrite)


class MlpBranch(nn.Module):
    """`res_scale * x + layer_scale * mlp(norm(x))`."""

    res_scale: Tensor | None

    def __init__(
        self,
        norm: nn.Module,
        mlp: Mlp,
        res_scale: Tensor | None,
        layer_scale: Tensor | None,
    ) -> None:
        super().__init__()
        self.norm, affine = split_norm(copy.deepcopy(norm), mlp.fc1)
        self.fc1, self.act = fuse_act(mlp.fc1, mlp.act, affine)
        self.fc2 = FusedConv(mlp.fc2, scale=layer_scale)
        self.register_buffer('res_scale', channelwise(res_scale))

    def forward(self, x: Tensor, overwrite: bool) -> Tensor:
        """Return the result, in place of x if `overwrite`."""
        hidden = self.act(self.fc1(self.norm(x)))
        if self.res_scale is not None:
            x = x.mul_(self.res_scale) if overwrite else x * self.res_scale
        elif not overwrite:
            x = x.clone()
        return self.fc2.add_(x, hidden)


class FusedBlock(nn.Module):
    """A `MetaFormerBlock` for inference; it does not modify its input.

    Args:
        block: The plain block, whose weights are copied. See `is_foldable`.
    """

    def __init__(self, block: MetaFormerBlock) -> None:
        super().__init__()
        self.pos_embed: FusedConv | None = None
        if block.pos_embed is not None:
            self.pos_embed = FusedConv(block.pos_embed)
            self.pos_embed.weight[:, :, 1, 1] += 1  # the shortcut
        self.mixed = MixedBranch(
            block.norm1, block.token_mixer, block.res_scale1, block.layer_scale1
        )
        self.mlp = MlpBranch(
            block.norm2, block.mlp, block.res_scale2, block.layer_scale2
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = self.pos_embed(x)
        overwrite = not guards.has_hooks(self)  # a hook may keep the map it sees
        return self.mlp(self.mixed(x, overwrite), overwrite)


def is_foldable(module: nn.Module, like: Tensor) -> bool:
    """Whether a block or downsampling is unmodified and has no hooks.

    Args:
        module: The block or downsampling, or whatever replaced it.
        like: Has the device and dtype of the backbone's parameters.
    """
    if not guards.are_untouched(module, FOLDABLE, like):
        return False
    if isinstance(module, MetaFormerBlock):
        pos = module.pos_embed
        if not has_usual_layers(module) or not (pos is None or _is_3x3(pos)):
            return False
        convs = [m for m in module.modules() if type(m) is nn.Conv2d]
    elif type(module) in DOWNSAMPLES:
        convs = [getattr(module, name) for name, _ in DOWNSAMPLES[type(module)]]
    else:
        return False
    return all(
        type(conv) is nn.Conv2d
        and conv.padding_mode == 'zeros'
        and conv.dilation == (1, 1)
        and not isinstance(conv.padding, str)
        for conv in convs
    )


def _is_3x3(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, 3x3, and preserves the map's size."""
    same = conv.stride == conv.padding == (1, 1)
    return same and conv.weight.shape == (conv.groups, 1, 3, 3)


def fuse_downsample(module: nn.Module) -> nn.Module:
    """Return a copy of a `Downsample` or `ConvStem` with oneDNN's convolutions."""
    module = copy.deepcopy(module)
    for conv, norm in DOWNSAMPLES[type(module)]:
        left, affine = split_norm(getattr(module, norm))
        setattr(module, conv, FusedConv(getattr(module, conv), after=affine))
        setattr(module, norm, left)
    return module


def fuse_act(
    conv: nn.Conv2d, act: nn.Module, before: Affine | None
) -> tuple[FusedConv, nn.Module]:
    """Return a convolution with its activation fused, and any remaining activation."""
    if type(act) is StarReLU and act.scale.numel() == act.bias.numel() == 1:
        return FusedConv(conv, before, star=act), nn.Identity()
    post_op = fusable(act)
    if post_op is None:
        return FusedConv(conv, before), copy.deepcopy(act)
    return FusedConv(conv, before, act=post_op), nn.Identity()


def split_norm(
    norm: nn.Module, behind: nn.Conv2d | None = None
) -> tuple[nn.Module, Affine | None]:
    """Split a norm into computed and folded parts; a batch norm is folded entirely.

    Args:
        norm: The norm.
        behind: The convolution after the norm to fold it into; if None, it is folded
            into the one before. If it is not pointwise, nothing is folded.
    """
    if not isinstance(norm, _BatchNorm):
        return norm, None
    if norm.running_mean is None or norm.running_var is None:
        return norm, None
    if behind is not None and not is_pointwise(behind):
        return norm, None
    weight = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        weight = weight * norm.weight
    bias = -weight * norm.running_mean
    if norm.bias is not None:
        bias = bias + norm.bias
    return nn.Identity(), Affine(weight, bias)


def copied(x: Tensor | None) -> Tensor | None:
    """Return a copy, or None for None."""
    return None if x is None else x.detach().clone()


def channelwise(x: Tensor | None) -> Tensor | None:
    """Return a copy of (C,) as (C, 1, 1), for maps, or None for None."""
    return None if x is None else x.detach().clone().view(-1, 1, 1)
