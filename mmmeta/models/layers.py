"""The parts of a MetaFormer block that are not its token mixer.

All modules take and return tensors of shape (B, C, H, W), float32, bfloat16 or
float16, in any memory format.
"""

import functools
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.archs import checks
from mmmeta.errors import InvalidTypeError, InvalidValueError
from mmmeta.ops.norms import map_norm


class ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels of each position.

    Args:
        dim: Number of channels C.
        eps: Added to the variance. Default: 1e-6.
        bias: Whether to add a learned bias. Default: True.
    """

    def __init__(self, dim: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        # No copy for channels_last maps, which layer_norm can then read directly.
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f'{self.weight.numel()}, eps={self.eps}, bias={self.bias is not None}'


class MapLayerNorm(nn.Module):
    """Layer normalization over (C, H, W), which is GroupNorm with one group.

    PoolFormer calls it GroupNorm (with bias, eps 1e-5); the MetaFormer
    baselines call it LayerNormGeneral over (1, 2, 3) (no bias, eps 1e-6).

    Args:
        dim: Number of channels C.
        eps: Added to the variance. Default: 1e-5.
        bias: Whether to add a learned bias per channel. Default: True.
    """

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return map_norm(x, self.weight, self.bias, self.eps)

    extra_repr = ChannelLayerNorm.extra_repr


class NormByMeans(nn.Module):
    """`MapLayerNorm` from means of means, as accurate in other runtimes as here.

    ONNX Runtime and OpenVINO sum a whole map in one go: at 800x1216 PoolFormer-S12 is
    off by 8e-4 and 3e-4 of an output's deviation, with means of means by 3e-6.

    Args:
        norm: The plain norm.
    """

    def __init__(self, norm: MapLayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        mean, square = (
            y.mean((2, 3), keepdim=True).mean(1, keepdim=True) for y in (x, x * x)
        )
        norm = self.norm
        scale = (square - mean * mean + norm.eps).rsqrt() * norm.weight.view(-1, 1, 1)
        shift = -mean * scale
        return x * scale + (
            shift if norm.bias is None else shift + norm.bias.view(-1, 1, 1)
        )


def take_means(model: nn.Module) -> None:
    """Replace each norm of a whole map by `NormByMeans`."""
    for name, child in model.named_children():
        if type(child) is MapLayerNorm:
            setattr(model, name, NormByMeans(child))
        else:
            take_means(child)


NORMS: dict[str, type[nn.Module]] = {
    'GN': MapLayerNorm,
    'LN': ChannelLayerNorm,
    'BN': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
}


DIM_OF_A_NORM = ('dim', 'num_features')
SWITCHES = frozenset({'bias', 'affine', 'track_running_stats'})


def build_norm(cfg: Mapping | None, dim: int) -> nn.Module:
    """Build a normalization layer over (B, C, H, W).

    Args:
        cfg: `dict(type=..., **kwargs)` with type 'GN' (one group), 'LN' (over
            channels), 'BN' or 'SyncBN'; None builds an identity. `requires_grad=False`
            freezes it, as in mmcv's configs.
        dim: Number of channels C.

    Raises:
        ValueError: The type is unknown or missing, or an argument is invalid.
        TypeError: `cfg` is not a dict, or an argument is unknown or of a wrong type.
    """
    if cfg is None:
        return nn.Identity()
    if not isinstance(cfg, Mapping):
        raise InvalidTypeError(
            f"a norm must be a dict such as dict(type='LN', eps=1e-6), got {cfg!r}"
        )
    kwargs = dict(cfg)
    kind = kwargs.pop('type', None)
    if not isinstance(kind, str) or kind not in NORMS:
        raise InvalidValueError(
            f'unknown norm type {kind!r} in {dict(cfg)}; choose from {sorted(NORMS)}'
        )
    trains = checks.switch('requires_grad', kwargs.pop('requires_grad', True))
    checks.keywords(f'the norm {kind}', kwargs, NORMS[kind], own=DIM_OF_A_NORM)
    checks.number('eps', kwargs.get('eps', 0.0), least=0)
    for name in SWITCHES.intersection(kwargs):
        checks.switch(name, kwargs[name])
    norm = NORMS[kind](dim, **kwargs)
    return norm if trains else norm.requires_grad_(False)


FLOAT16_MAX = torch.finfo(torch.float16).max


class StarReLU(nn.Module):
    """`scale * relu(x) ** 2 + bias` with two learned scalars (2210.13452, eq. 3).

    In float16 the result is clipped to the finite range; training in it warns once.

    Args:
        scale: Initial scale. Default: 1.0, as in the reference.
        bias: Initial bias. Default: 0.0.
    """

    def __init__(self, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale))
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if x.dtype != torch.float16:
            return torch.addcmul(self.bias, self.scale, x.square())
        # Squares of values above 255 overflow in float16 and become NaN in the next
        # layer: square in float32 and clip to the finite range.
        if self.training and not torch.compiler.is_compiling():
            _warn_of_float16()
        x = torch.addcmul(self.bias.float(), self.scale.float(), x.float().square())
        return x.clamp(-FLOAT16_MAX, FLOAT16_MAX).to(torch.float16)


@functools.cache  # once per process
def _warn_of_float16() -> None:
    warnings.warn(
        'StarReLU squares its input and clips it at 65504, the largest float16. Large '
        'models are known to diverge in float16; use bfloat16 instead '
        "(AmpOptimWrapper with dtype='bfloat16')",
        stacklevel=3,
    )


ACTIVATIONS: dict[str, type[nn.Module]] = {
    'GELU': nn.GELU,
    'ReLU': nn.ReLU,
    'SiLU': nn.SiLU,
    'StarReLU': StarReLU,
    'Identity': nn.Identity,
}


def build_act(name: str) -> nn.Module:
    """Build an activation by name; raises ValueError for an unknown one."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InvalidValueError(
            f'unknown activation {name!r}; choose from {sorted(ACTIVATIONS)}'
        )
    return ACTIVATIONS[name]()


class Downsample(nn.Module):
    """The downsampling convolution of a stage, with a norm before or after it.

    Args:
        in_dim: Number of input channels.
        out_dim: Number of output channels.
        kernel_size: In pixels.
        stride: In pixels.
        padding: Zeros on each side, in pixels. Default: 0.
        pre_norm: Config of a norm of the input (see `build_norm`). Default: None.
        post_norm: Config of a norm of the output. Default: None.

    Raises:
        ValueError: A wrong size or norm.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        pre_norm: Mapping | None = None,
        post_norm: Mapping | None = None,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ('kernel_size', kernel_size, 1),
            ('stride', stride, 1),
            ('padding', padding, 0),
        ):
            for side in size if isinstance(size, list | tuple) else (size,):
                checks.integer(name, side, least)
        self.pre_norm = build_norm(pre_norm, in_dim)
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding)
        self.post_norm = build_norm(post_norm, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.post_norm(self.conv(self.pre_norm(x)))


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with batch norms (Sense-X/UniFormer, S+).

    Args:
        in_dim: Number of input channels.
        out_dim: Number of output channels; the first convolution has half as many.

    Raises:
        ValueError: `out_dim` is less than 2.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        checks.integer("ConvStem's out_dim", out_dim, 2)
        self.conv1 = nn.Conv2d(in_dim, out_dim // 2, 3, 2, 1)
        self.norm1 = nn.BatchNorm2d(out_dim // 2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(out_dim // 2, out_dim, 3, 2, 1)
        self.norm2 = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(x))


DOWNSAMPLES: dict[str, type[nn.Module]] = {
    'Downsample': Downsample,
    'ConvStem': ConvStem,
}


def build_downsample(cfg: Mapping, in_dim: int, out_dim: int) -> nn.Module:
    """Build the downsampling module of a stage.

    Args:
        cfg: Arguments of `Downsample`, or `dict(type='ConvStem')`.
        in_dim: Number of input channels.
        out_dim: Number of output channels.

    Raises:
        ValueError: An unknown type, or a wrong argument.
        TypeError: No dict, an unknown argument, or one of a wrong type.
    """
    if not isinstance(cfg, Mapping):
        raise InvalidTypeError(
            'downsample must be a dict such as dict(kernel_size=3, stride=2, '
            f'padding=1), got {cfg!r}'
        )
    kwargs = dict(cfg)
    kind = kwargs.pop('type', 'Downsample')
    if not isinstance(kind, str) or kind not in DOWNSAMPLES:
        raise InvalidValueError(
            f'unknown downsample type {kind!r}; choose from {sorted(DOWNSAMPLES)}'
        )
    checks.keywords(kind, kwargs, DOWNSAMPLES[kind], own=('in_dim', 'out_dim'))
    missing = [n for n in ('kernel_size', 'stride') if n not in kwargs]
    if kind == 'Downsample' and missing:
        raise InvalidTypeError(f'downsample lacks {missing[0]}: {dict(cfg)}')
    return DOWNSAMPLES[kind](in_dim, out_dim, **kwargs)
