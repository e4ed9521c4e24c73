"""Branches of a block as autograd functions that keep their input only.

Plain modules keep a map for each of their steps until the backward pass, and the MLP's
two hidden ones are four times as wide. The plain reference is what
`mmmeta.models.metaformer.MetaFormerBlock` does where these are not used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmmeta.ops.pooling import mix_pooled, pool_apart, pool_apart_transposed
from mmmeta.ops.statistics import map_statistics


class PooledBranch(torch.autograd.Function):
    """`shortcut + keep * layer_scale * (pool(norm(x)) - norm(x))`.

    The norm is over (C, H, W). Pooling that does not count the padding leaves a
    constant as it is, so mean and bias of the norm cancel: with r = 1 / std, the branch
    is layer_scale * weight * r * d, d = pool(x) - x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        shortcut: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        keep: Tensor | None,
        eps: float,
        size: int,
    ) -> Tensor:
        """Args: shortcut and x (B, C, H, W), the norm's weight and bias (C,), the layer
        scale (C,) or None, drop path's factor (B, 1, 1, 1) or None, the norm's eps,
        side of the window. Returns (B, C, H, W)."""
        mean, rstd = map_statistics(x, eps)
        ctx.save_for_backward(x, weight, scale, keep, mean, rstd)
        ctx.size, ctx.has_bias, ctx.alike = size, bias is not None, shortcut is x
        factor = _factor(weight, scale, keep) * rstd
        if shortcut is x:
            return mix_pooled(x, factor, size)
        apart = pool_apart(x, size)
        return torch.addcmul(shortcut, apart, factor.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, keep, mean, rstd = ctx.saved_tensors
        of_shortcut = None if ctx.alike else grad
        # The shortcut may have a wider dtype, in mixed precision.
        grad = grad.to(x.dtype, memory_format=torch.channels_last)
        apart = pool_apart_transposed(grad, ctx.size)
        # (B, C): how the loss depends on the factor of each map.
        of_factor = (apart * x).sum((2, 3), dtype=rstd.dtype)
        kept = of_factor if keep is None else of_factor * keep.flatten(1)
        by_channel = (kept * rstd.flatten(1)).sum(0)
        of_weight = by_channel if scale is None else by_channel * scale
        of_scale = None if scale is None else (by_channel * weight).to(scale.dtype)
        of_x = None
        if ctx.needs_input_grad[1]:
            factor = _factor(weight, scale, keep)
            # d rstd / dx = -rstd**3 * (x - mean) / size
            of_rstd = (of_factor * factor.flatten(1)).sum(1).view_as(rstd)
            slope = -of_rstd * rstd**3 / x[0].numel()
            shift = (-mean * slope).to(x.dtype)
            slope = slope.to(x.dtype)
            if ctx.alike:  # both gradients in one
                of_x = torch.addcmul(grad, x, slope).add_(shift)
            else:
                of_x = torch.addcmul(shift, x, slope)
            of_x.addcmul_(apart, (factor * rstd).to(x.dtype))
        # Zeros, not None: DDP takes a parameter without a gradient for an unused one.
        of_bias = torch.zeros_like(weight) if ctx.has_bias else None
        of_weight = of_weight.to(weight.dtype)
        return of_shortcut, of_x, of_weight, of_bias, of_scale, None, None, None


def _factor(weight: Tensor, scale: Tensor | None, keep: Tensor | None) -> Tensor:
    """Return (1 or B, C, 1, 1)."""
    factor = (weight if scale is None else weight * scale).view(1, -1, 1, 1)
    return factor if keep is None else factor * keep


class RecomputedMlp(torch.autograd.Function):
    """`shortcut + keep * layer_scale * fc2(act(fc1(norm(x))))`; keeps x, no hidden map.

    The backward pass computes norm, first layer and activation once more; what the
    second layer gave is not needed, its gradients follow from the activation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Sequential,
        shortcut: Tensor,
        x: Tensor,
        scale: Tensor | None,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        """Args: norm, first layer and activation; shortcut and x (B, C, H, W); the
        layer scale (C,) or None; drop path's factor (B, 1, 1, 1) or None; the second
        layer's weight and bias; the head's parameters, in its order.
        Returns (B, C, H, W)."""
        ctx.head = head
        ctx.autocast = dict(
            device_type=x.device.type,
            enabled=torch.is_autocast_enabled(x.device.type),
            dtype=torch.get_autocast_dtype(x.device.type),
        )
        ctx.save_for_backward(x, scale, keep, weight, bias)
        branch = F.conv2d(head(x), weight, bias)
        if scale is None and keep is None:
            return shortcut + branch
        factor = 1 if scale is None else scale.view(-1, 1, 1)
        factor = factor if keep is None else factor * keep
        return torch.addcmul(shortcut, branch, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, keep, weight, bias = ctx.saved_tensors
        parameters = list(ctx.head.parameters())
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            start = x.detach().requires_grad_(ctx.needs_input_grad[2])
            hidden = ctx.head(start)
        of_shortcut = grad
        grad = grad if keep is None else grad * keep
        grad = grad.to(hidden.dtype, memory_format=torch.channels_last)
        scaled = weight if scale is None else weight * scale.view(-1, 1, 1, 1)
        back, outer, _ = torch.ops.aten.convolution_backward(
            grad,
            hidden.detach(),
            scaled.to(hidden.dtype),
            None,
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            [True, True, False],
        )
        outer = outer.to(weight.dtype)  # of the layer without its scale
        total = grad.sum((0, 2, 3), dtype=weight.dtype)
        grads = [None, None, outer, None if bias is None else total]
        if scale is not None:
            of_scale = (outer * weight).sum((1, 2, 3))
            grads[0] = of_scale if bias is None else of_scale + total * bias
            grads[2] = outer * scale.view(-1, 1, 1, 1)
            grads[3] = None if bias is None else total * scale
        wanted = [t for t in (start, *parameters) if t.requires_grad]
        found = iter(torch.autograd.grad(hidden, wanted, back) if wanted else ())
        of_x, *of_parameters = (
            next(found) if t.requires_grad else None for t in (start, *parameters)
        )
        return None, of_shortcut, of_x, *grads, *of_parameters
