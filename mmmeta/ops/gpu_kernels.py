"""Triton kernels for blocks whose norms are over whole maps, for inference on a GPU.

What is beside the two matrix products of such a block is bound by memory. Its norms
need two numbers a sample; a kernel that writes a map therefore also leaves what the
next norm needs, and no sweep is spent on statistics.

A map is (B, C, H, W) in channels_last memory, float32, bfloat16 or float16; arithmetic
is float32. Below each function is what it computes, in plain PyTorch: `*_reference`.

Partials are (B, programs, 2), float32: sum and sum of squares of what one program
wrote, as rounded. No atomics, so results repeat to the bit. E[x^2] - E[x]^2 is exact
to 1e-6 where the mean is not far larger than the deviation; the relative error grows
with the square of their ratio.

On a CPU: TRITON_INTERPRET=1, set before Triton is imported.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# A tile of 64x64 gives each of 128 threads 32 elements, four 16-byte loads in half
# precision: enough in flight to hide the latency, and far from spilling registers.
BLOCK_POSITIONS = 64
BLOCK_CHANNELS = 64
# Pooling holds seven tiles in registers, so they are smaller. A program walks down
# POOL_ROWS rows and reads two more; taller strips would leave small maps with fewer
# programs than a GPU has processors.
POOL_COLUMNS = 16
POOL_ROWS = 4
BLOCK_FACTORS = 1024  # one program of `norm_factors`; its input is tiny
NUM_WARPS = 4
FLOAT16_MAX = tl.constexpr(65504.0)
SQRT_HALF = tl.constexpr(0.7071067811865476)

ACTS = ('none', 'gelu', 'star')


@triton.jit
def _store_partials(partials, total, squares):
    program = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    at = partials + 2 * (program * tl.num_programs(1) + tl.program_id(1))
    tl.store(at, tl.sum(total))
    tl.store(at + 1, tl.sum(squares))


@triton.jit
def _tile(positions, channels, block_p: tl.constexpr, block_c: tl.constexpr):
    """Return sample, channels, offsets into the map and mask of a program's tile."""
    # In 64 bits: a batch of hidden maps may have more than 2**31 elements.
    sample = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0) * block_p + tl.arange(0, block_p)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    row = (sample * positions + position)[:, None]
    mask = (position < positions)[:, None] & (channel < channels)[None, :]
    return sample, channel, row * channels + channel[None, :], mask


# Sizes of maps are not specialised: a new size of image compiles nothing.
@triton.jit(do_not_specialize=['positions'])
def _map_partials(
    x, partials, positions, channels, block_p: tl.constexpr, block_c: tl.constexpr
):
    _, _, offset, mask = _tile(positions, channels, block_p, block_c)
    value = tl.load(x + offset, mask, other=0.0).to(tl.float32)
    _store_partials(partials, value, value * value)


@triton.jit(do_not_specialize=['programs'])
def _norm_factors(
    partials, weight, bias, rstd, scale, shift, programs, size, eps, channels,
    block: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    lane = tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    squares = tl.zeros([block], tl.float32)
    for start in range(0, programs, block):
        mask = start + lane < programs
        at = partials + 2 * (sample * programs + start + lane)
        total += tl.load(at, mask, other=0.0)
        squares += tl.load(at + 1, mask, other=0.0)
    mean = tl.sum(total) / size
    variance = tl.maximum(tl.sum(squares) / size - mean * mean, 0.0)
    factor = tl.rsqrt(variance + eps)
    if tl.program_id(0) == 0:
        tl.store(rstd + sample, factor)

    channel = tl.program_id(0) * block + lane
    mask = channel < channels
    value = factor * tl.load(weight + channel, mask, other=0.0)
    tl.store(scale + sample * channels + channel, value, mask)
    value = tl.load(bias + channel, mask, other=0.0) - mean * value
    tl.store(shift + sample * channels + channel, value, mask)


@triton.jit
def _load_pooled_row(x, start, row, column, height, width, channel, channels):
    """Return a row's sums over three columns, and the row."""
    rows = row + 0 * channel  # Triton 3.9's interpreter makes no mask with a number
    inside = ((channel < channels) & (rows >= 0) & (rows < height))[None, :]
    at = x + (start + row * width + column)[:, None] * channels + channel[None, :]
    left = (column > 0) & (column < width)
    right = column < width - 1
    here = inside & (column < width)[:, None]
    middle = tl.load(at, here, other=0.0).to(tl.float32)
    total = middle + tl.load(at - channels, inside & left[:, None], other=0.0)
    total += tl.load(at + channels, inside & right[:, None], other=0.0)
    return total, middle


@triton.jit(do_not_specialize=['height', 'width'])
def _pool_mix(
    x, scale, shortcut, y, partials, height, width, channels,
    rows: tl.constexpr, block_w: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(width, block_w)
    top = tl.program_id(0) // strips * rows
    column = tl.program_id(0) % strips * block_w + tl.arange(0, block_w)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    sample = tl.program_id(2).to(tl.int64)
    start = sample * height * width
    known = channel < channels
    factor = tl.load(scale + sample * channels + channel, known, other=0.0)[None, :]
    keep = 1.0 - factor
    if shortcut is not None:
        keep = tl.load(shortcut + channel, known, other=0.0)[None, :] - factor
    columns = 1.0 + (column > 0) + (column < width - 1)

    # Three rows' sums roll down the strip, so that each is loaded once.
    above, _ = _load_pooled_row(
        x, start, top - 1, column, height, width, channel, channels
    )
    here, value = _load_pooled_row(
        x, start, top, column, height, width, channel, channels
    )
    total = tl.zeros([block_w, block_c], tl.float32)
    squares = tl.zeros([block_w, block_c], tl.float32)
    for i in range(rows):
        row = top + i
        below, following = _load_pooled_row(
            x, start, row + 1, column, height, width, channel, channels
        )
        count = columns * (1.0 + (row > 0) + (row < height - 1))
        pooled = (above + here + below) / count[:, None]
        mixed = (keep * value + factor * pooled).to(y.dtype.element_ty)
        offset = (start + row * width + column)[:, None] * channels + channel[None, :]
        inside = known & (row + 0 * channel < height)
        mask = (column < width)[:, None] & inside[None, :]
        tl.store(y + offset, mixed, mask)
        mixed = tl.where(mask, mixed.to(tl.float32), 0.0)
        total += mixed
        squares += mixed * mixed
        above = here
        here = below
        value = following
    _store_partials(partials, total, squares)


@triton.jit(do_not_specialize=['positions'])
def _norm_act(
    hidden, rstd, shift, positions, channels,
    act: tl.constexpr, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    sample, channel, offset, mask = _tile(positions, channels, block_p, block_c)
    bias = tl.load(shift + sample * channels + channel, channel < channels, other=0.0)
    value = tl.load(hidden + offset, mask, other=0.0).to(tl.float32)
    value = tl.load(rstd + sample) * value + bias[None, :]
    if act == 'gelu':
        value = 0.5 * value * (1.0 + tl.erf(value * SQRT_HALF))
    elif act == 'star':
        value = tl.maximum(value, 0.0)
        value = value * value
        if hidden.dtype.element_ty == tl.float16:
            value = tl.minimum(value, FLOAT16_MAX)  # as `StarReLU` does
    tl.store(hidden + offset, value.to(hidden.dtype.element_ty), mask)


@triton.jit(do_not_specialize=['positions'])
def _add_branch(
    x, branch, bias, shortcut, y, partials, positions, channels,
    bias_stride, shortcut_stride, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    sample, channel, offset, mask = _tile(positions, channels, block_p, block_c)
    known = channel < channels
    value = tl.load(x + offset, mask, other=0.0).to(tl.float32)
    if shortcut is not None:
        at = shortcut + sample * shortcut_stride + channel
        value *= tl.load(at, known, other=0.0)[None, :]
    if branch is not None:
        value += tl.load(branch + offset, mask, other=0.0).to(tl.float32)
    if bias is not None:
        at = bias + sample * bias_stride + channel
        value += tl.load(at, known, other=0.0)[None, :]
    value = value.to(y.dtype.element_ty)
    tl.store(y + offset, value, mask)
    value = tl.where(mask, value.to(tl.float32), 0.0)
    _store_partials(partials, value, value * value)


def _check(x: Tensor) -> None:
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            'expected a map (B, C, H, W) in channels_last memory, got '
            f'{tuple(x.shape)} with strides {x.stride()}'
        )


def _channel_block(channels: int) -> int:
    """Return a power of two that divides the channels, where one of 32 or more does."""
    return 32 if channels % BLOCK_CHANNELS else BLOCK_CHANNELS


def _tiles(x: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Return the grid of programs over a map, and their arguments."""
    _check(x)
    batch, channels, height, width = x.shape
    positions, block = height * width, _channel_block(channels)
    tiles = triton.cdiv(positions, BLOCK_POSITIONS), triton.cdiv(channels, block)
    sizes = dict(positions=positions, channels=channels)
    return (*tiles, batch), dict(sizes, block_p=BLOCK_POSITIONS, block_c=block)


def _new_partials(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    return x.new_empty(len(x), grid[0] * grid[1], 2, dtype=torch.float32)


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **sizes: Any) -> None:
    with torch.cuda.device_of(args[0]):  # Triton launches on the current device
        kernel[grid](*args, **sizes, num_warps=NUM_WARPS)


def map_partials(x: Tensor) -> Tensor:
    """Return the partials of a map that no kernel here has written."""
    grid, sizes = _tiles(x)
    partials = _new_partials(x, grid)
    _launch(_map_partials, grid, x, partials, **sizes)
    return partials


def map_partials_reference(x: Tensor) -> Tensor:
    """See `map_partials`; (B, 1, 2)."""
    x = x.float().flatten(1)
    return torch.stack([x.sum(1), x.square().sum(1)], -1)[:, None]


def norm_factors(
    partials: Tensor, size: int, eps: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a norm over whole maps as an affine map of each sample's channels.

    Args:
        partials: (B, programs, 2) of the map that is normalised.
        size: Number of elements of a sample, C * H * W.
        eps: Added to the variance.
        weight: (N,), what the normalised map is multiplied by.
        bias: (N,), what is added then.

    Returns:
        rstd (B,), scale (B, N) = weight * rstd, shift (B, N) = bias - mean * scale.
    """
    batch, channels = len(partials), len(weight)
    rstd = weight.new_empty(batch, dtype=torch.float32)
    scale, shift = weight.new_empty(2, batch, channels, dtype=torch.float32)
    grid = triton.cdiv(channels, BLOCK_FACTORS), batch
    _launch(
        _norm_factors, grid, partials, weight, bias, rstd, scale, shift,
        partials.shape[1], float(size), eps, channels, block=BLOCK_FACTORS,
    )  # fmt: skip
    return rstd, scale, shift


def norm_factors_reference(
    partials: Tensor, size: int, eps: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `norm_factors`."""
    mean, square = (partials.sum(1) / size).unbind(1)
    rstd = ((square - mean.square()).clamp_min(0) + eps).rsqrt()
    scale = weight * rstd[:, None]
    return rstd, scale, bias - mean[:, None] * scale


def pool_mix(
    x: Tensor, scale: Tensor, shortcut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return `shortcut * x + scale * (pool(x) - x)` and its partials.

    Pooling is the average over 3x3 positions, those outside the map not counted.

    Args:
        x: (B, C, H, W).
        scale: (B, C), float32.
        shortcut: (C,), float32, or None for 1.
    """
    _check(x)
    batch, channels, height, width = x.shape
    y = torch.empty_like(x, memory_format=torch.channels_last)
    block = _channel_block(channels)
    tiles = triton.cdiv(width, POOL_COLUMNS) * triton.cdiv(height, POOL_ROWS)
    grid = tiles, triton.cdiv(channels, block), batch
    partials = _new_partials(x, grid)
    _launch(
        _pool_mix, grid, x, scale, shortcut, y, partials, height, width, channels,
        rows=POOL_ROWS, block_w=POOL_COLUMNS, block_c=block,
    )  # fmt: skip
    return y, partials


def pool_mix_reference(
    x: Tensor, scale: Tensor, shortcut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `pool_mix`."""
    value = x.float()
    pooled = F.avg_pool2d(value, 3, 1, 1, count_include_pad=False)
    y = value if shortcut is None else shortcut[:, None, None] * value
    y = (y + scale[:, :, None, None] * (pooled - value)).to(x.dtype)
    return y, map_partials_reference(y)


def norm_act_(hidden: Tensor, rstd: Tensor, shift: Tensor, act: str) -> Tensor:
    """Return `act(rstd * hidden + shift)`, written over `hidden`.

    Args:
        hidden: (B, C, H, W).
        rstd: (B,), float32.
        shift: (B, C), float32.
        act: 'none', 'gelu' (exact) or 'star' (ReLU squared, in float16 clipped to the
            finite range).
    """
    if act not in ACTS:
        raise ValueError(f'act must be one of {ACTS}, got {act!r}')
    grid, sizes = _tiles(hidden)
    _launch(_norm_act, grid, hidden, rstd, shift, **sizes, act=act)
    return hidden


def norm_act_reference(hidden: Tensor, rstd: Tensor, shift: Tensor, act: str) -> Tensor:
    """See `norm_act_`; returns a new map."""
    value = rstd[:, None, None, None] * hidden.float() + shift[:, :, None, None]
    if act == 'gelu':
        value = F.gelu(value)
    if act == 'star':
        value = value.relu().square()
        if hidden.dtype == torch.float16:
            value = value.clamp_max(FLOAT16_MAX.value)
    return value.to(hidden.dtype)


def add_branch(
    x: Tensor,
    branch: Tensor | None,
    bias: Tensor | None,
    shortcut: Tensor | None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return `shortcut * x + branch + bias` and its partials.

    Args:
        x: (B, C, H, W).
        branch: Likewise, of the same dtype, or None.
        bias: (C,) or (B, C), float32, or None.
        shortcut: (C,) or (B, C), float32, or None for 1.
        inplace: Write over `x`. Default: False.
    """
    grid, sizes = _tiles(x)
    if branch is not None:
        _check(branch)
    y = x if inplace else torch.empty_like(x, memory_format=torch.channels_last)
    partials = _new_partials(x, grid)
    _launch(
        _add_branch, grid, x, branch, bias, shortcut, y, partials,
        bias_stride=_sample_stride(bias), shortcut_stride=_sample_stride(shortcut),
        **sizes,
    )  # fmt: skip
    return y, partials


def _sample_stride(factors: Tensor | None) -> int:
    """Return how far the next sample's factors are: 0 for (C,), which all share."""
    return 0 if factors is None or factors.dim() == 1 else factors.shape[1]


def add_branch_reference(
    x: Tensor,
    branch: Tensor | None,
    bias: Tensor | None,
    shortcut: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `add_branch`; returns a new map."""
    y = x.float()
    if shortcut is not None:
        y = y * shortcut[..., None, None]
    if branch is not None:
        y = y + branch.float()
    if bias is not None:
        y = y + bias[..., None, None]
    y = y.to(x.dtype)
    return y, map_partials_reference(y)
