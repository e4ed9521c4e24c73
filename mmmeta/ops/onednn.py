"""Convolutions of oneDNN with what follows them fused in, for inference on a CPU.

These are the operators that TorchInductor puts into a frozen graph, called directly:
nothing is compiled, and any size of image is served at once. A pointwise convolution is
a matrix product: as such oneDNN takes a weight as it is nearly as fast as one in its
own layout, into which a convolution's is brought at every call.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.ops.eager import may_overwrite

POST_OPS = {nn.GELU: 'gelu', nn.ReLU: 'relu', nn.SiLU: 'swish', nn.Identity: 'none'}
OPERATORS = (
    *('_convolution_pointwise', '_convolution_pointwise_', '_linear_pointwise'),
    *('_reorder_convolution_weight', '_reorder_linear_weight'),
    '_is_mkldnn_bf16_supported',
)
MANY = 2048  # positions, behind which bringing a weight into oneDNN's layout is nothing


@functools.cache
def is_available() -> bool:
    """Whether this PyTorch has oneDNN and the fused operators."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in OPERATORS
    )


@functools.cache
def dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes that this CPU computes the operators in."""
    if not is_available():
        return ()
    low = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if low else (torch.float32,)


def post_op(act: nn.Module) -> str | None:
    """Return the operators' name of an activation, None where they have none."""
    if type(act) is nn.GELU and act.approximate != 'none':
        return None
    return POST_OPS.get(type(act))


def serves(x: Tensor, layers: Sequence[nn.Module], *others: nn.Module) -> bool:
    """Whether plain, eager inference may use these operators in the modules' place.

    Args:
        x: (B, C, H, W).
        layers: What should be pointwise convolutions.
        others: What else is not called then.
    """
    return (
        may_overwrite(x, *layers, *others)
        and x.dtype in dtypes()
        and all(_is_pointwise(layer, x.dtype) for layer in layers)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled('cpu')
        and torch.backends.mkldnn.enabled
    )


def _is_pointwise(layer: nn.Module, dtype: torch.dtype) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.weight.dtype == dtype
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    """Return act(conv(x)), (B, out, H, W) in channels_last memory.

    Args:
        x: (B, in, H, W), fastest in channels_last memory.
        weight: (out, in, 1, 1), or packed by `pack_pointwise`.
        bias: (out,), or None.
        act: See `FusedConv`.
    """
    if not weight.is_mkldnn and _positions(x) >= MANY:
        return _convolve(x, weight, bias, _POINTWISE, act)
    y = torch.ops.mkldnn._linear_pointwise(
        x.permute(0, 2, 3, 1), _matrix(weight), bias, act, [], _algorithm(act)
    )
    return y.permute(0, 3, 1, 2)


def add_pointwise_(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Return out + conv(x), in the memory of `out` if it has many positions.

    Args:
        out: (B, out, H, W).
        x: (B, in, H, W).
        weight: (out, in, 1, 1).
        bias: (out,), or None.
    """
    if _positions(x) >= MANY:
        return _add_convolved_(out, x, weight, bias, _POINTWISE)
    y = torch.ops.mkldnn._linear_pointwise.binary(
        x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), _matrix(weight), bias, 'add'
    )
    return y.permute(0, 3, 1, 2)


def pack_pointwise(weight: Tensor) -> Tensor:
    """Bring (out, in, 1, 1) into oneDNN's own layout, good for every image size."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1), None)


def _positions(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _matrix(weight: Tensor) -> Tensor:
    return weight if weight.is_mkldnn else weight.flatten(1)


def _algorithm(act: str) -> str:
    return 'none' if act == 'gelu' else ''  # exact, by the error function


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Return (B, C, H, W) convolved with (C, 1, 3, 3), padded with zeros."""
    return _convolve(x, weight, None, ([1, 1], [1, 1], [1, 1], len(weight)), 'none')


def add_depthwise_(out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Add x convolved as by `depthwise` to `out`, in place, and return it."""
    geometry = ([1, 1], [1, 1], [1, 1], len(weight))
    return _add_convolved_(out, x, weight, None, geometry)


_POINTWISE = ([0, 0], [1, 1], [1, 1], 1)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, act: str
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, *geometry, act, [], _algorithm(act)
    )


def _add_convolved_(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        out, x, weight, bias, *geometry, 'add', 1.0, None, [], ''
    )


class FusedConv(nn.Module):
    """A convolution with an activation, or an addition in place, behind it.

    Works on a CPU, without gradients, in float32 or bfloat16.

    Args:
        weight: (out, in / groups, kh, kw).
        bias: (out,), or None.
        stride: In positions, (vertical, horizontal). Default: (1, 1).
        padding: Zeros on each side, likewise. Default: (0, 0).
        groups: Default: 1.
        act: 'none', 'relu', 'gelu' or 'swish'. Default: 'none'.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        act: str = 'none',
    ) -> None:
        super().__init__()
        self.register_buffer('weight', weight.detach().clone())
        self.register_buffer('bias', None if bias is None else bias.detach().clone())
        self.geometry = ([*padding], [*stride], [1, 1], groups)
        self.is_pointwise = weight.shape[2:] == (1, 1) and self.geometry == _POINTWISE
        self.act = act
        self._forget_packed()

    def forward(self, x: Tensor) -> Tensor:
        """Return act(conv(x)), (B, out, H', W'), for x (B, in, H, W)."""
        if self.is_pointwise:
            return pointwise(x, self._matrix(), self.bias, self.act)
        return _convolve(x, self._kernel(x), self.bias, self.geometry, self.act)

    def add_(self, out: Tensor, x: Tensor) -> Tensor:
        """Add conv(x) to `out`, (B, out, H', W'), in place, and return it."""
        return _add_convolved_(out, x, self._kernel(x), self.bias, self.geometry)

    def _matrix(self) -> Tensor:
        if self._packed_matrix is None:
            self._packed_matrix = pack_pointwise(self.weight)
        return self._packed_matrix

    def _kernel(self, x: Tensor) -> Tensor:
        """Return the weight, in oneDNN's own layout if the last shape comes again.

        Else oneDNN brings it there at every call, which takes longer than the
        arithmetic where maps are small. The layout is made for one shape, and can be
        very slow at another.
        """
        shape = (*x.shape, x.dtype)
        if shape != self._shape:
            self._shape, self._packed = shape, None
            return self.weight
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, [*x.shape]
            )
        return self._packed

    def _forget_packed(self) -> None:
        self._shape: tuple[Any, ...] | None = None
        self._packed: Tensor | None = None
        self._packed_matrix: Tensor | None = None

    def _apply(self, *args: Any, **kwargs: Any) -> 'FusedConv':
        self._forget_packed()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)  # made again
        return state | dict(_shape=None, _packed=None, _packed_matrix=None)

    def extra_repr(self) -> str:
        padding, stride, _, groups = self.geometry
        return (
            f'{tuple(self.weight.shape)}, stride={stride}, padding={padding}, '
            f'groups={groups}, act={self.act}'
        )
