"""oneDNN's convolutions with fused activations and additions, for CPU inference.

These are the operators that TorchInductor puts into a frozen graph, called directly:
nothing is compiled, and any image size works immediately. A pointwise convolution is
computed as a matrix product, for which oneDNN uses a plain weight nearly as fast as one
in its own layout; for a convolution it would reorder the weight at every call.

They are private to PyTorch, so each is tested once against the public functions; if one
is missing or differs, `dtypes` is empty and they are not used.
"""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# PyTorch's names of fused activations; GELU is exact, and all of them preserve NaN.
POST_OPS = {'none': lambda x: x, 'gelu': F.gelu, 'swish': F.silu}
DENSE = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups


def dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes in which this PyTorch supports the operators on this CPU."""
    return _dtypes(multiplies_exactly())


@functools.cache
def _dtypes(exact: bool) -> tuple[torch.dtype, ...]:
    if not torch.backends.mkldnn.is_available():
        return ()
    candidates = (torch.float32, torch.bfloat16)
    return tuple(dtype for dtype in candidates if _agrees(dtype))


def is_available() -> bool:
    """Whether the operators work and the user has not disabled oneDNN."""
    return bool(dtypes()) and bool(torch.backends.mkldnn.enabled)


def multiplies_exactly() -> bool:
    """Whether matrix products in float32 are not rounded to bfloat16 or TF32.

    `torch.set_float32_matmul_precision` may allow that, but convolutions stay exact.
    """
    matmul = getattr(torch.backends.mkldnn, 'matmul', None)
    if matmul is None:  # PyTorch up to 2.8
        return torch.get_float32_matmul_precision() == 'highest'
    return matmul.fp32_precision in ('none', 'ieee')


def pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, act: str = 'none'
) -> Tensor:
    """Return act(conv(x)), (B, out, H, W) in channels_last memory.

    Args:
        x: (B, in, H, W), fastest in channels_last memory.
        weight: (out, in, 1, 1), or packed by `pack_pointwise`.
        bias: (out,) or None.
        act: A key of `POST_OPS`. Default: 'none'.
    """
    y = torch.ops.mkldnn._linear_pointwise(
        x.permute(0, 2, 3, 1), _matrix(weight), bias, act, [], _algorithm(act)
    )
    return y.permute(0, 3, 1, 2)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, act: str = 'none'
) -> Tensor:
    """Return act(conv(x)), (B, out, H', W').

    Args:
        x: (B, in, H, W).
        weight: (out, in / groups, kh, kw), or packed by `pack`.
        bias: (out,), or None.
        geometry: Padding, stride, dilation (a list of two each) and groups.
        act: A key of `POST_OPS`. Default: 'none'.
    """
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, *geometry, act, [], _algorithm(act)
    )


def add_convolved_(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple
) -> Tensor:
    """Add `convolve(x, ...)` to `out`, (B, out, H', W'), in place, and return it."""
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        out, x, weight, bias, *geometry, 'add', 1.0, None, [], ''
    )


def pack_pointwise(weight: Tensor) -> Tensor:
    """Reorder (out, in, 1, 1) into oneDNN's own layout, for any image size."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1), None)


def pack(weight: Tensor, geometry: tuple, shape: torch.Size) -> Tensor:
    """Reorder a weight into oneDNN's own layout, for inputs of this shape."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, [*shape])


def _matrix(weight: Tensor) -> Tensor:
    return weight if weight.is_mkldnn else weight.flatten(1)


def _algorithm(act: str) -> str:
    return 'none' if act == 'gelu' else ''  # the exact GELU, not the tanh one


@torch.no_grad()
def _agrees(dtype: torch.dtype) -> bool:
    """Whether all operators exist and agree with the public functions."""
    step = 16 * torch.finfo(dtype).eps
    try:
        return all(
            found.dtype == dtype
            and torch.allclose(found, expected, rtol=step, atol=step, equal_nan=True)
            for found, expected in _try(dtype)
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


def _try(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield results of the operators and of the public functions on random numbers."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device='cpu').to(dtype)

    x = draw(1, 32, 5, 7).contiguous(memory_format=torch.channels_last)
    x[0, 3, 2, 2] = torch.nan
    weight, bias, kernel = draw(16, 32, 1, 1), draw(16), draw(32, 1, 3, 3)
    depthwise = ([1, 1], [1, 1], [1, 1], 32)
    dense, deep = F.conv2d(x, weight, bias), F.conv2d(x, kernel, None, 1, 1, 1, 32)
    yield add_convolved_(deep.clone(), x, kernel, None, depthwise), 2 * deep
    yield convolve(x, pack(kernel, depthwise, x.shape), None, depthwise), deep
    for act, function in POST_OPS.items():
        expected = function(dense)
        yield convolve(x, weight, bias, DENSE, act), expected
        if dtype != torch.float32 or multiplies_exactly():
            yield pointwise(x, weight, bias, act), expected
            yield pointwise(x, pack_pointwise(weight), bias, act), expected
