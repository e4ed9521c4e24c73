"""CARAFE, masked convolutions and PSANet."""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import pick, widened


def _carafe(
    masks: Tensor, size: torch.Size, kernel_size: int, group_size: int,
    scale_factor: int,
) -> tuple[Callable[[Tensor], list[Tensor]], Tensor, tuple[int, ...]]:  # fmt: skip
    """Return a function listing views of a padded map, one per tap; weights; a shape.

    Axes are (B, group, channel or tap, H, up, W, up).
    """
    b, c, h, w = size
    grid = (h, scale_factor, w, scale_factor)
    weights = masks.reshape(b, group_size, kernel_size**2, *grid)

    def shifts(padded: Tensor) -> list[Tensor]:
        views = padded.unfold(2, h, 1).unfold(3, w, 1)  # (B, C, kernel, kernel, H, W)
        views = views.unflatten(1, (group_size, -1))[..., None, :, None]
        taps = itertools.product(range(kernel_size), repeat=2)
        return [views[:, :, :, i, j] for i, j in taps]

    return shifts, weights, (b, group_size, c // group_size, *grid)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, **sizes: int
) -> None:
    """Write features reassembled by content (1905.02188, eq. 2) into `output`.

    `masks` are (B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor).
    """
    features, masks = widened(features, masks)
    shifts, weights, shape = _carafe(masks, features.shape, **sizes)
    total = features.new_zeros(shape)
    margin = sizes['kernel_size'] // 2
    for k, shift in enumerate(shifts(F.pad(features, [margin] * 4))):
        total.addcmul_(shift, weights[:, :, k, None])
    output.copy_(total.view(output.shape))


def carafe_naive_backward(
    grad_output: Tensor, features: Tensor, masks: Tensor, grad_features: Tensor,
    grad_masks: Tensor, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradients of features and masks to the tensors for them."""
    grad, features, masks = widened(grad_output, features, masks)
    shifts, weights, shape = _carafe(masks, features.shape, **sizes)
    grad = grad.reshape(shape)
    margin = sizes['kernel_size'] // 2
    padded = F.pad(features, [margin] * 4)
    grad_padded, grad_weights = torch.zeros_like(padded), torch.empty_like(weights)
    pairs = zip(shifts(padded), shifts(grad_padded), strict=True)
    for k, (shift, grad_shift) in enumerate(pairs):
        grad_weights[:, :, k] = (grad * shift).sum(2)
        grad_shift += (grad * weights[:, :, k, None]).sum((4, 6), keepdim=True)
    grad_masks += grad_weights.view(masks.shape)
    h, w = features.shape[2:]
    grad_features += grad_padded[..., margin : margin + h, margin : margin + w]


def carafe_forward(
    features: Tensor, masks: Tensor, kept: Tensor, *outputs: Tensor, **sizes: int
) -> None:
    """Write the result of `carafe_naive_forward` into the last output.

    The others are buffers; the features are kept in `kept` for the backward pass.
    """
    kept.copy_(features)
    carafe_naive_forward(features, masks, outputs[-1], **sizes)


def carafe_backward(
    grad_output: Tensor, kept: Tensor, masks: Tensor, *outputs: Tensor, **sizes: int
) -> None:
    """Apply `carafe_naive_backward` to the last two outputs."""
    grad_features, grad_masks = outputs[-2:]
    carafe_naive_backward(grad_output, kept, masks, grad_features, grad_masks, **sizes)


def masked_im2col_forward(
    im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor, *, kernel_h: int,
    kernel_w: int, pad_h: int, pad_w: int,
) -> None:  # fmt: skip
    """Write the receptive fields of N positions to `col` (C * kernel_h * kernel_w, N).

    `im` is (1, C, H, W); positions, (N,) each, are those of a convolution's output.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    taps = col.view(-1, kernel_h, kernel_w, len(mask_h_idx))
    for i in range(kernel_h):
        for j in range(kernel_w):
            taps[:, i, j] = padded[:, mask_h_idx + i, mask_w_idx + j]


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **sizes: int
) -> None:
    """Write `col` (C, N) to N positions of `im` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def _psa_taps(sizes: dict[str, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the tap of p's mask that is at q, by (q, p), and whether it exists."""

    def taps(axis: str) -> Tensor:
        index = torch.arange(sizes[f'{axis}_feature'], device=device)
        return index[:, None] - index + sizes[f'half_{axis}_mask']

    h_mask, w_mask = pick(sizes, 'h_mask w_mask')
    h, w = taps('h')[:, None, :, None], taps('w')[None, :, None]
    valid = (h >= 0) & (h < h_mask) & (w >= 0) & (w < w_mask)
    tap = (h * w_mask + w).masked_fill(~valid, 0)
    return tap.flatten(2).flatten(0, 1), valid.flatten(2).flatten(0, 1)


def psamask_forward(
    input: Tensor, output: Tensor, *, psa_type: int, num_: int, **sizes: int
) -> None:
    """Write point-wise spatial attention (PSANet, section 3.2) into `output`.

    `input` (B, h_mask * w_mask, H, W) is each position's attention to its neighborhood,
    `output` (B, H * W, H, W) that to all positions; `psa_type` 0 collects, 1
    distributes.
    """
    tap, valid = _psa_taps(sizes, input.device)
    found = input.flatten(2).gather(1, tap.expand(num_, -1, -1)) * valid
    output.copy_((found.mT if psa_type else found).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor, grad_input: Tensor, *, psa_type: int, num_: int, **sizes: int
) -> None:
    """Write the gradient of the input into `grad_input`."""
    tap, valid = _psa_taps(sizes, grad_output.device)
    grad = grad_output.flatten(2)
    grad = (grad.mT if psa_type else grad) * valid
    summed = torch.zeros_like(grad_input).flatten(2)
    summed.scatter_add_(1, tap.expand(num_, -1, -1), grad)
    grad_input.copy_(summed.view(grad_input.shape))
