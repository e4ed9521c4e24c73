"""Convolutions of oneDNN with what follows them fused in, for inference on a CPU.

These are the operators that TorchInductor puts into a frozen graph, called directly:
nothing is compiled, and any size of image is served at once.
"""

from typing import Any

import torch
from torch import Tensor, nn


def is_available() -> bool:
    """Whether this PyTorch has oneDNN and the fused operators."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, '_convolution_pointwise'
    )


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Return (B, C, H, W) convolved with (C, 1, 3, 3), padded with zeros."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, None, [1, 1], [1, 1], [1, 1], len(weight), 'none', [], ''
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
        self.act = act
        self._shape: tuple[Any, ...] | None = None
        self._packed: Tensor | None = None

    def forward(
        self, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Return act(conv(x)), (B, out, H', W').

        Args:
            x: (B, in, H, W).
            scale: What the weight is multiplied by this time, of no dimension.
                Default: None.
            bias: Instead of the layer's own, (out,), where `scale` is given.
        """
        weight = self._weight(x)
        weight, bias = (weight, self.bias) if scale is None else (weight * scale, bias)
        algorithm = 'none' if self.act == 'gelu' else ''
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, *self.geometry, self.act, [], algorithm
        )

    def add_(self, out: Tensor, x: Tensor) -> Tensor:
        """Add conv(x) to `out`, (B, out, H', W'), in place, and return it."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            out, x, self._weight(x), self.bias, *self.geometry, 'add', 1.0, None, [], ''
        )

    def _weight(self, x: Tensor) -> Tensor:
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

    def _apply(self, *args: Any, **kwargs: Any) -> 'FusedConv':
        self._shape = self._packed = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_shape': None, '_packed': None}  # made again

    def extra_repr(self) -> str:
        padding, stride, _, groups = self.geometry
        return (
            f'{tuple(self.weight.shape)}, stride={stride}, padding={padding}, '
            f'groups={groups}, act={self.act}'
        )
