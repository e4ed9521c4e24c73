"""A faster block for plain inference on a CPU, with `MetaFormerBlock`'s parameters.

It computes the same results with fewer passes over memory: oneDNN computes pointwise
convolutions as matrix products fused with the following activation, and later steps
are done in place on maps created here. Nothing is cached, so nothing becomes stale.
`docs/performance.md` has the measurements.

The guards in `mmmeta.ops.guards` decide when it may run; `KNOWN` lists the classes it
can replace. Everything else (hooks, custom layers, gradients, tracing, ...) falls back
to `MetaFormerBlock`, which `fast=False` builds in the first place.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from mmmeta.models.layers import ChannelLayerNorm, MapLayerNorm, StarReLU
from mmmeta.models.metaformer import MetaFormerBlock
from mmmeta.models.mlp import Mlp
from mmmeta.models.token_mixers import (
    Attention,
    Identity,
    Pooling,
    RandomMixing,
    SepConv,
    pad_to_multiple,
)
from mmmeta.ops import guards, onednn


class FastBlock(MetaFormerBlock):
    """A `MetaFormerBlock` that takes a fast path where the results are the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._may_act(x):
            return super().forward(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        y, ours = mix(self.token_mixer, self.norm1(x))
        x = residual(x, y, self.res_scale1, self.layer_scale1, ours)
        y = activated(self.mlp.act, self.mlp.fc1, self.norm2(x))
        y = pointwise(self.mlp.fc2, y)
        return residual(x, y, self.res_scale2, self.layer_scale2, True)

    def _may_act(self, x: Tensor) -> bool:
        return (
            guards.may_stand_in(self, x, KNOWN)
            and has_usual_layers(self)
            and onednn.is_available()
            and x.dtype in onednn.dtypes()
            and (x.dtype != torch.float32 or onednn.multiplies_exactly())
            and not (type(self.drop_path) is DropPath and self.drop_path.training)
        )


KNOWN = guards.remember(
    (
        *(FastBlock, Mlp, DropPath, nn.Identity, nn.Conv2d),
        *(Attention, Identity, Pooling, RandomMixing, SepConv),
        *(ChannelLayerNorm, MapLayerNorm, nn.BatchNorm2d, nn.SyncBatchNorm),
        *(nn.GELU, nn.ReLU, nn.SiLU, StarReLU),
    )
)
CONVOLUTIONS = {SepConv: ('pwconv1', 'dwconv', 'pwconv2'), Attention: ('qkv', 'proj')}
POST_OPS = {nn.GELU: 'gelu', nn.SiLU: 'swish', nn.Identity: 'none'}


def has_usual_layers(block: MetaFormerBlock) -> bool:
    """Whether the layers that the fast path replaces still have their original types.

    Norms, activations and mixers without convolutions may be of any type.
    """
    mixer, mlp = block.token_mixer, block.mlp
    if type(mlp) is not Mlp or type(block.drop_path) not in (DropPath, nn.Identity):
        return False
    layers = [mlp.fc1, mlp.fc2]
    layers += [getattr(mixer, name) for name in CONVOLUTIONS.get(type(mixer), ())]
    if block.pos_embed is not None:
        layers.append(block.pos_embed)
    return all(type(layer) is nn.Conv2d for layer in layers)


def mix(mixer: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
    """Return mixer(x), and whether that map may be overwritten."""
    if type(mixer) is SepConv:
        y = mixer.dwconv(activated(mixer.act1, mixer.pwconv1, x))
        return pointwise(mixer.pwconv2, y), True
    if type(mixer) is Attention:
        height, width = x.shape[2:]
        if mixer.window_size is not None:
            x = pad_to_multiple(x, mixer.window_size)
        x = mixer.attend(pointwise(mixer.qkv, x))
        return pointwise(mixer.proj, x[:, :, :height, :width]), True
    return mixer(x), type(mixer) is Pooling


def residual(
    x: Tensor,
    branch: Tensor,
    res_scale: Tensor | None,
    layer_scale: Tensor | None,
    overwrite: bool,
) -> Tensor:
    """Return `res_scale * x + layer_scale * branch`, computed in place if allowed.

    Args:
        x: (B, C, H, W).
        branch: (B, C, H, W).
        res_scale: (C,) or None.
        layer_scale: (C,) or None.
        overwrite: Whether `branch` may be overwritten.
    """
    out = branch if overwrite and branch.shape == x.shape else None
    if layer_scale is None:
        if res_scale is None:
            return torch.add(x, branch, out=out)
        return torch.addcmul(branch, x, res_scale.view(-1, 1, 1), out=out)
    if res_scale is not None:
        x = x * res_scale.view(-1, 1, 1)
    return torch.addcmul(x, branch, layer_scale.view(-1, 1, 1), out=out)


def activated(act: nn.Module, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return act(conv(x))."""
    if not is_pointwise(conv):
        return act(conv(x))
    if type(act) is StarReLU and act.scale.numel() == act.bias.numel() == 1:
        y = onednn.pointwise(x, conv.weight, conv.bias).relu_()
        return torch.addcmul(act.bias, y, y, value=act.scale.item(), out=y)
    post_op = fusable(act)
    if post_op is None:
        return act(pointwise(conv, x))
    return onednn.pointwise(x, conv.weight, conv.bias, post_op)


def fusable(act: nn.Module) -> str | None:
    """Return oneDNN's name of an activation, or None if it has no equal one."""
    if type(act) is nn.GELU and act.approximate != 'none':
        return None
    return POST_OPS.get(type(act))


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return conv(x), computed by oneDNN's operator if `conv` is pointwise."""
    if not is_pointwise(conv):
        return conv(x)
    return onednn.pointwise(x, conv.weight, conv.bias)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is 1x1, dense and unpadded, with stride 1."""
    return (
        conv.weight.shape[2:] == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )
