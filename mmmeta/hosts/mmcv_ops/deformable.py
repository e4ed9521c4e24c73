"""Deformable convolution and deformable attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import OPS, pick, widened


def _deform(sizes: dict[str, int]) -> tuple[int, ...]:
    return pick(sizes, 'dH dW padH padW dilationH dilationW group deformable_group')


def _unmodulated(input: Tensor, weight: Tensor, offset: Tensor) -> list[Tensor]:
    mask, bias = input.new_zeros(len(input), 1), input.new_zeros(len(weight))
    return [input, weight, _without_nan(offset), mask, bias]


def _without_nan(offset: Tensor) -> Tensor:
    """Return offsets that lead outside of the map, where mmcv samples 0, for NaN.

    At those torchvision's kernel for CPUs reads outside of the map's memory.
    """
    return offset.nan_to_num(torch.finfo(offset.dtype).max)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor,
    ones: Tensor, **sizes: int,
) -> None:  # fmt: skip
    """Write the deformable convolution (1703.06211) into `output`.

    `offset` is (B, 2 * deformable_group * kH * kW, H', W'), y before x. mmcv's buffer
    arguments (`columns`, `ones`) are not used, here and below.
    """
    tensors = widened(*_unmodulated(input, weight, offset))
    output.copy_(OPS.deform_conv2d(*tensors, *_deform(sizes), False))


def deform_conv_backward_input(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_input: Tensor,
    grad_offset: Tensor, weight: Tensor, columns: Tensor, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradient of `input` to `grad_input`, and write that of `offset`."""
    tensors = widened(grad_output, *_unmodulated(input, weight, offset))
    grads = OPS._deform_conv2d_backward(*tensors, *_deform(sizes), False)
    grad_input += grads[0]
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_weight: Tensor,
    columns: Tensor, ones: Tensor, *, scale: float, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradient of the weight, times `scale`, to `grad_weight`."""
    # The result does not depend on the weight; the kernel only needs its shape.
    tensors = widened(grad_output, *_unmodulated(input, grad_weight, offset))
    grads = OPS._deform_conv2d_backward(*tensors, *_deform(sizes), False)
    grad_weight.add_(grads[1], alpha=scale)


def _modulated(sizes: dict[str, int]) -> tuple[int, ...]:
    names = 'stride_h stride_w pad_h pad_w dilation_h dilation_w group deformable_group'
    return pick(sizes, names)


def _as_read(maps: Tensor, like: Tensor) -> Tensor:
    """Return maps (B, C, H, W) in the height and width of others, as mmcv reads them.

    It takes the numbers from the front of each image's without a look at the shape.
    DyHead, which hands the offsets of one level to the smaller next, was trained so.
    """
    if maps.shape[2:] == like.shape[2:]:
        return maps
    shape = (*maps.shape[:2], *like.shape[2:])
    numbers = maps.flatten(1)
    if numbers.shape[1] < shape[1] * shape[2] * shape[3]:
        raise ValueError(
            f'modulated_deform_conv needs offsets and masks of at least the size of '
            f'its output, {tuple(like.shape[2:])}; got {tuple(maps.shape[2:])}'
        )
    return numbers[:, : shape[1] * shape[2] * shape[3]].view(shape)


def _write_back(target: Tensor, values: Tensor) -> None:
    """Write what belongs to `_as_read(target, values)`; the rest gets 0."""
    numbers = values.flatten(1)
    more = target[0].numel() - numbers.shape[1]
    target.copy_(F.pad(numbers, (0, more)).view(target.shape))


def modulated_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
    mask: Tensor, output: Tensor, columns: Tensor, *, with_bias: bool, **sizes: int,
) -> None:  # fmt: skip
    """Write the modulated deformable convolution (1811.11168) into `output`.

    `mask` is (B, deformable_group * kernel_h * kernel_w, H', W'). Both it and `offset`
    may be larger than the output, see `_as_read`.
    """
    bias = bias if with_bias else input.new_zeros(len(weight))
    offset, mask = _as_read(offset, output), _as_read(mask, output)
    tensors = widened(input, weight, _without_nan(offset), mask, bias)
    output.copy_(OPS.deform_conv2d(*tensors, *_modulated(sizes), True))


def modulated_deform_conv_backward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
    mask: Tensor, columns: Tensor, grad_input: Tensor, grad_weight: Tensor,
    grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
    *, with_bias: bool, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradients of input, weight and bias, and write the other two."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    offset, mask = _as_read(offset, grad_output), _as_read(mask, grad_output)
    tensors = widened(grad_output, input, weight, _without_nan(offset), mask, bias)
    grads = OPS._deform_conv2d_backward(*tensors, *_modulated(sizes), True)
    grad_input += grads[0]
    grad_weight += grads[1]
    _write_back(grad_offset, grads[2])
    _write_back(grad_mask, grads[3])
    if with_bias:
        grad_bias += grads[4]


def ms_deform_attn_forward(
    value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
    sampling_locations: Tensor, attention_weights: Tensor, im2col_step: int,
) -> Tensor:  # fmt: skip
    """Return multi-scale deformable attention (2010.04159), (B, queries, channels).

    Uses mmcv's own PyTorch function, which documents the shapes.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    dtype = value.dtype
    value, *rest = widened(value, sampling_locations, attention_weights)
    found = multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, *rest)
    return found.to(dtype)


def ms_deform_attn_backward(
    value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
    sampling_locations: Tensor, attention_weights: Tensor, grad_output: Tensor,
    grad_value: Tensor, grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:  # fmt: skip
    """Add the gradients of values, locations and weights to the given tensors."""
    inputs = [value, sampling_locations, attention_weights]
    with torch.enable_grad():
        value, places, weights = inputs = [x.detach().requires_grad_() for x in inputs]
        levels = value_spatial_shapes, value_level_start_index
        output = ms_deform_attn_forward(value, *levels, places, weights, im2col_step)
    targets = grad_value, grad_sampling_loc, grad_attn_weight
    grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip(targets, grads, strict=True):
        target += grad
