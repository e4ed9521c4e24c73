"""Regions of maps: RoIAlign and RoIPool."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .common import LEAST_CHANNELS, MANY, OPS, not_here, pick, widened


def _roi_align_sizes(options: dict[str, Any]) -> tuple[tuple, tuple]:
    if options['pool_mode'] != 1:
        raise not_here("RoIAlign with pool_mode='max'")
    names = 'spatial_scale aligned_height aligned_width'
    return pick(options, names), pick(options, 'sampling_ratio aligned')


def _by_channels(
    call: Callable[[Tensor], Tensor], given: Tensor, target: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of `target`'s channels with `call`'s results for those of `given`.

    Large maps on a CPU are split over several threads: torchvision's kernels use one.
    """
    threads = min(torch.get_num_threads(), given.shape[1] // LEAST_CHANNELS)
    if threads < 2 or given.device.type != 'cpu' or target.numel() < MANY:
        yield target, call(given)
        return
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(call, given.chunk(threads, 1))
        yield from zip(target.chunk(threads, 1), found, strict=True)


def _finite(rois: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return regions without NaN and infinity, and which had them, (K, 1, 1, 1).

    At those torchvision's kernel for CPUs reads outside of the map. None: no region,
    or on another device.
    """
    odd = ~rois[:, 1:].isfinite().all(1, keepdim=True)
    if rois.device.type != 'cpu' or not odd.any():
        return rois, None
    corners = rois[:, 1:].masked_fill(odd, 0)
    return torch.cat([rois[:, :1], corners], 1), odd[..., None, None]


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    **options: Any,
) -> None:  # fmt: skip
    """Write the means of regions (1703.06870) into `output` (K, C, height, width)."""
    sizes, sampling = _roi_align_sizes(options)
    wide, rois = widened(input.detach(), rois)
    rois, odd = _finite(rois)

    def align(part: Tensor) -> Tensor:
        found = OPS.roi_align(part, rois, *sizes, *sampling)
        return found if odd is None else found.masked_fill_(odd, torch.nan)

    for target, found in _by_channels(align, wide, output):
        target.copy_(found)


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    grad_input: Tensor, **options: Any,
) -> None:  # fmt: skip
    """Add the gradient of the maps to `grad_input` (B, C, H, W)."""
    sizes, sampling = _roi_align_sizes(options)
    grad, rois = widened(grad_output.detach(), rois)
    rois, odd = _finite(rois)
    grad = grad if odd is None else grad.masked_fill(odd, 0)
    b, _, h, w = grad_input.shape

    def spread(part: Tensor) -> Tensor:
        shape = b, part.shape[1], h, w
        return OPS._roi_align_backward(part, rois, *sizes, *shape, *sampling)

    for target, found in _by_channels(spread, grad, grad_input):
        target += found


def roi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, *, pooled_height: int,
    pooled_width: int, spatial_scale: float,
) -> None:  # fmt: skip
    """Write the maxima of regions (1504.08083) into `output` (K, C, height, width).

    Their positions h * W + w are written into `argmax`, int32. A bin without positions,
    or of a region without area, has 0 and -1. mmcv rounds the corners of bins but
    torchvision those of regions, so each bin is passed to torchvision as a region.
    """
    wide, rois = widened(input, rois)
    image, *corners = rois[:, :, None].unbind(1)
    x1, y1, x2, y2 = (
        (corner + more) * spatial_scale
        for corner, more in zip(corners, (0, 0, 1, 1), strict=True)
    )

    def bins(start: Tensor, end: Tensor, count: int, limit: int) -> tuple:
        steps = torch.arange(count + 1, device=rois.device)
        edges = steps * ((end - start) / count) + start
        first, last = edges[:, :-1].floor(), edges[:, 1:].ceil() - 1
        return first.clamp(0, limit), last.clamp(-1, limit - 1)

    left, right = (x[:, None] for x in bins(x1, x2, pooled_width, input.shape[3]))
    top, bottom = (y[..., None] for y in bins(y1, y2, pooled_height, input.shape[2]))
    sides = torch.broadcast_tensors(image[..., None], left, top, right, bottom)
    malformed = ((x2 <= x1) | (y2 <= y1))[..., None]
    empty = (malformed | (right < left) | (bottom < top))[:, None]
    regions = torch.stack(sides, -1).view(-1, 5)
    for target, found, nothing in zip(
        (output, argmax), OPS.roi_pool(wide, regions, 1.0, 1, 1), (0, -1), strict=True
    ):
        bins_last = found.view(len(rois), pooled_height, pooled_width, -1)
        target.copy_(bins_last.permute(0, 3, 1, 2).masked_fill(empty, nothing))


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **sizes: Any
) -> None:
    """Add the gradient of the maps to `grad_input` (B, C, H, W)."""
    channels, size = grad_input.shape[1], grad_input[0, 0].numel()
    plane = rois[:, 0].long()[:, None] * channels
    plane = plane + torch.arange(channels, device=rois.device)
    place = plane[..., None, None] * size + argmax.clamp(min=0)
    grad = widened(grad_output)[0].masked_fill(argmax < 0, 0).flatten()
    summed = grad.new_zeros(grad_input.numel()).index_add_(0, place.flatten(), grad)
    grad_input += summed.view(grad_input.shape)
