"""What a backbone checks of its arguments and of its images."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.archs import checks
from mmmeta.archs.arch import NUM_STAGES, Arch, per_stage
from mmmeta.errors import InvalidTypeError, InvalidValueError
from mmmeta.ops.guards import is_hooked

ALL_STAGES = tuple(range(NUM_STAGES))
LAST_STAGE = (NUM_STAGES - 1,)
MIN_SIZE = 32  # the total stride: smaller images have no position left in stage 4


def check_out_indices(out_indices: Sequence[int], fork_feat: bool) -> tuple[int, ...]:
    """Return the stages that are returned, counted from 0."""
    valid = isinstance(out_indices, (list, tuple)) and all(
        type(i) is int and -NUM_STAGES <= i < NUM_STAGES for i in out_indices
    )
    indices = tuple(i % NUM_STAGES for i in out_indices) if valid else ()
    if not indices or list(indices) != sorted(set(indices)):
        raise InvalidValueError(
            'out_indices must be ascending stage indices from 0, 1, 2, 3, got '
            f'{out_indices!r}'
        )
    if fork_feat:
        return indices
    if indices not in (ALL_STAGES, LAST_STAGE):
        raise InvalidValueError(
            'fork_feat=False returns the last map alone, and out_indices='
            f'{out_indices!r} asks for others: leave one of the two out'
        )
    return LAST_STAGE


def check_init_cfg(init_cfg: Any) -> None:
    for cfg in init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg or {}]:
        kind = cfg.get('type') if isinstance(cfg, Mapping) else None
        if cfg != {} and not isinstance(kind, str | type):
            raise InvalidTypeError(
                "init_cfg must be a dict such as dict(type='Pretrained', "
                f'checkpoint=...), or a list of them; got {init_cfg!r}'
            )


def blocks_to_checkpoint(with_cp: bool | Sequence[int], arch: Arch) -> tuple:
    """Return how many blocks of each stage recompute; beyond the depth is all."""
    if isinstance(with_cp, bool):
        return tuple(arch.depths) if with_cp else (0,) * NUM_STAGES
    if not isinstance(with_cp, list | tuple):
        raise InvalidTypeError(
            f'with_cp must be True, False or a list of {NUM_STAGES} counts of blocks, '
            f'one a stage; got {with_cp!r}'
        )
    counts = per_stage(with_cp, 'with_cp')
    return tuple(checks.integer('each count of with_cp', n, 0) for n in counts)


def read_switch(
    argument: str, value: bool | None, variable: str, default: bool
) -> bool:
    """Return an argument's value, or for None what an environment variable says."""
    if value is not None:
        return checks.switch(argument, value)
    text = os.environ.get(variable, '').strip().lower()
    if text == '':
        return default
    if text in ('0', 'false', 'no', 'off'):
        return False
    if text in ('1', 'true', 'yes', 'on'):
        return True
    raise InvalidValueError(
        f'the environment variable {variable} must be 1 or 0, got {text}'
    )


def check_images(x: Any, channels: int) -> None:
    """Check that `x` are images (B, channels, H, W) with H, W >= 32.

    Raises:
        InvalidTypeError: Not a plain tensor, or not of a floating-point dtype.
        InvalidValueError: Of another shape.
    """
    if not isinstance(x, Tensor):
        raise InvalidTypeError(
            f'expected images as a tensor of shape (B, {channels}, H, W), got '
            f'{type(x).__name__}'
        )
    if x.layout is not torch.strided or x.is_nested:
        raise InvalidTypeError(
            f'expected images as a dense tensor of shape (B, {channels}, H, W), got a '
            f'{"nested" if x.is_nested else str(x.layout).removeprefix("torch.")} one'
        )
    if x.dim() != 4 or x.shape[1] != channels:
        raise InvalidValueError(
            f'expected images of shape (B, {channels}, H, W), got {tuple(x.shape)}; '
            'set the number of channels with the backbone argument in_channels'
        )
    if not x.is_floating_point():
        raise InvalidTypeError(
            f'expected images of a floating-point dtype, got {x.dtype}: normalize them '
            'first, as the data preprocessor of a config does'
        )
    if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
        raise InvalidValueError(
            f'expected images of at least {MIN_SIZE}x{MIN_SIZE} pixels, got '
            f'{x.shape[2]}x{x.shape[3]} (HxW): the backbone has stride '
            f'{MIN_SIZE}; resize or pad them'
        )


def check_dtype(x: Tensor, stage: nn.Module) -> None:
    """Check that images are of the dtype of the first convolution.

    Raises:
        InvalidTypeError: They are of another, and nothing will convert them.
    """
    stem = getattr(stage, 'downsample', None)
    conv = getattr(stem, 'conv', None) or getattr(stem, 'conv1', None)
    if type(conv) is not nn.Conv2d or conv.weight.dtype == x.dtype:
        return
    # Hooks may convert the weights in time, as those of mixed precision in DDP do.
    hooked = any(is_hooked(m) for m in (stage, stem, conv) if m is not None)
    # Autocast converts all but float64.
    converts = torch.is_autocast_enabled(x.device.type)
    converts = converts and torch.float64 not in (conv.weight.dtype, x.dtype)
    if hooked or converts:
        return
    raise InvalidTypeError(
        f'expected images of the dtype of the weights, {conv.weight.dtype}, got '
        f'{x.dtype}: convert either, or run within torch.autocast'
    )


def check_mixed(y: Any, x: Tensor, mixer: nn.Module) -> None:
    """Check that what a token mixer made of `x` can go through the shortcut.

    Raises:
        InvalidTypeError: It is not a tensor, or of a dtype that the next layer does not
            take.
        InvalidValueError: It is of another shape, which the shortcut would broadcast.
    """
    if not isinstance(y, Tensor):
        raise InvalidTypeError(
            f'the token mixer {type(mixer).__name__} must return one tensor of the '
            f'shape of its input, got {type(y).__name__}'
        )
    if torch.jit.is_tracing():  # it warns about each comparison
        return
    if y.shape != x.shape:
        raise InvalidValueError(
            f'the token mixer {type(mixer).__name__} must return the shape of its '
            f'input, {tuple(x.shape)}, got {tuple(y.shape)}'
        )
    if y.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return
    if not y.is_floating_point() or torch.promote_types(x.dtype, y.dtype) != x.dtype:
        raise InvalidTypeError(
            f'the token mixer {type(mixer).__name__} must return the dtype of its '
            f'input, {x.dtype}, got {y.dtype}'
        )
