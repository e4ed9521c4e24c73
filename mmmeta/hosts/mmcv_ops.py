"""mmcv's operators without compilation: a replacement for `mmcv._ext` on torchvision.

`mmmeta_finder` provides this file for `import mmcv._ext` if mmcv was installed without
its compiled operators. The functions have the signatures of mmcv's own
(mmcv/ops/csrc/pytorch/pybind.cpp; tensors by position, numbers by name), write into the
given output tensors like those, and have the results of mmcv 2.3.6 on any device.
Half precision is computed in float32, float64 in float64.

These are the operators that models of MMDetection, MMSegmentation and MMPretrain use,
except `deform_roi_pool` (two configs of MMDetection), `line_nms` (CLRerNet) and mmcv's
own SyncBN. Other names can be imported, but raise NotImplementedError when called.

Shapes: maps (B, C, H, W); regions `rois` (K, 5), the image's index, then x1, y1, x2, y2
in its pixels; boxes (N, 4), x1, y1, x2, y2 in pixels.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

OPS = torch.ops.torchvision
READS_STRIDES = True  # maps may have any memory format; see mmmeta/ops/layout.py
# Minimum sizes for multithreading: channels, and elements in total.
LEAST_CHANNELS, MANY = 32, 2**20
COMPILED = (
    'compile mmcv to get it: pip install --no-build-isolation --no-deps '
    '--force-reinstall --no-binary :all: onedl-mmcv (needs torch and a C++ compiler)'
)


def __getattr__(name: str) -> Callable:
    """Return a function that raises, for an operator that is not implemented."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: object, **kwargs: object) -> None:
        raise _not_here(name)

    return missing


def _not_here(what: str) -> NotImplementedError:
    return NotImplementedError(
        f'{what} is not among the operators of mmcv that mmmeta provides; {COMPILED}'
    )


def get_compiler_version() -> str:
    """Return a replacement for the compiler's version in environment reports."""
    return f"none (mmmeta's operators on torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """Return the CUDA version that torchvision and PyTorch are built for."""
    return torch.version.cuda or 'not available'


def _wide(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in a dtype that all kernels support: float32 or float64."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    dtype = dtype if dtype == torch.float64 else torch.float32
    return [x.to(dtype) for x in tensors]


def _pick(options: dict[str, Any], names: str) -> tuple:
    return tuple(options[name] for name in names.split())


# ----------------------------------------------------------- non-maximum suppression


def _float32(threshold: float) -> float:
    """Round to float32, as mmcv does with IoUs and thresholds."""
    return float(np.float32(threshold))


def _areas(boxes: np.ndarray, offset: int) -> np.ndarray:
    x1, y1, x2, y2 = boxes.T
    return (x2 - x1 + offset) * (y2 - y1 + offset)


def _ious(boxes: np.ndarray, areas: np.ndarray, offset: int) -> np.ndarray:
    """Return the IoU of the first box with each other box, computed as in mmcv."""
    corner1 = np.maximum(boxes[0, :2], boxes[1:, :2])
    corner2 = np.minimum(boxes[0, 2:], boxes[1:, 2:])
    size = np.maximum(corner2 - corner1 + offset, 0)
    inter = size[:, 0] * size[:, 1]
    with np.errstate(invalid='ignore', divide='ignore'):  # boxes without area
        return inter / (areas[0] + areas[1:] - inter)


def _groups(
    boxes: Tensor, scores: Tensor, offset: int, suppresses: Callable
) -> list[np.ndarray]:
    """Return the index of each box to keep and those of the boxes it suppresses.

    Both are ordered by score; `suppresses` decides for an IoU.
    """
    order = scores.sort(descending=True)[1].cpu().numpy()
    sorted_boxes = boxes.cpu().numpy()[order]
    areas = _areas(sorted_boxes, offset)
    left = np.arange(len(order))
    groups = []
    while len(left):
        gone = suppresses(_ious(sorted_boxes[left], areas[left], offset))
        first, rest = left[:1], left[1:]
        groups.append(order[np.concatenate([first, rest[gone]])])
        left = rest[~gone]
    return groups


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices (K,), int64, of the boxes to keep, by descending score.

    A box is removed if its IoU with a better one is above `iou_threshold`. With
    `offset` 1, a box from pixel 0 to pixel 9 is ten pixels wide.
    """
    boxes, scores = _wide(boxes.detach(), scores.detach())
    threshold = _float32(iou_threshold)
    if offset == 0:
        return OPS.nms(boxes, scores, threshold)
    # torchvision's nms with x2 + 1 would lose digits compared with x2 - x1 + 1.
    groups = _groups(boxes, scores, offset, lambda ious: ious > threshold)
    keep = torch.tensor([group[0] for group in groups], dtype=torch.long)
    return keep.to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group `dets` (N, 5), boxes with scores, by an IoU of at least the threshold."""
    dets = _wide(dets.detach())[0]
    threshold = _float32(iou_threshold)
    groups = _groups(dets[:, :4], dets[:, 4], 0, lambda ious: ious >= threshold)
    return [group.tolist() for group in groups]


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, *, iou_threshold: float, sigma: float,
    min_score: float, method: int, offset: int,
) -> Tensor:  # fmt: skip
    """Lower the scores of boxes that overlap better ones (1704.04503), on a CPU.

    `method` 0 sets scores to zero and 1 multiplies them by 1 - IoU, from a threshold
    on; 2 multiplies them by exp(-IoU ** 2 / sigma). Boxes whose score falls below
    `min_score` are removed. Writes boxes and new scores into `dets` (N, 5), by
    descending score, and returns their indices (K,).
    """
    wide, wide_scores = _wide(boxes.detach(), scores.detach())
    box, score = wide.numpy(), wide_scores.numpy().copy()
    area = _areas(box, offset)
    order = np.arange(len(box))  # the first i are selected, the others remaining
    rows = np.zeros((len(box), 5), box.dtype)
    i = 0
    while i < len(order):
        best = i + score[order[i:]].argmax()
        order[[i, best]] = order[[best, i]]
        rows[i] = (*box[order[i]], score[order[i]])
        iou = _ious(box[order[i:]], area[order[i:]], offset)
        if method == 2:
            factor = np.exp(-(iou * iou) / sigma)
        else:
            factor = np.where(iou >= _float32(iou_threshold), method * (1 - iou), 1)
        i += 1
        score[order[i:]] *= factor.astype(score.dtype)
        order = _without(order, i, score < _float32(min_score))
    dets.copy_(torch.from_numpy(rows))
    return torch.from_numpy(order)


def _without(order: np.ndarray, start: int, gone: np.ndarray) -> np.ndarray:
    """Remove `gone` from `start` on, moving the last into its place, as in mmcv."""
    end = len(order)
    for place in start + np.flatnonzero(gone[order[start:]]):
        while place < end and gone[order[place]]:
            end -= 1
            order[place] = order[end]
    return order[:end]


# -------------------------------------------------------------------- regions of maps


def _roi_align_sizes(options: dict[str, Any]) -> tuple[tuple, tuple]:
    if options['pool_mode'] != 1:
        raise _not_here("RoIAlign with pool_mode='max'")
    names = 'spatial_scale aligned_height aligned_width'
    return _pick(options, names), _pick(options, 'sampling_ratio aligned')


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
    wide, rois = _wide(input.detach(), rois)
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
    grad, rois = _wide(grad_output.detach(), rois)
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
    wide, rois = _wide(input, rois)
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
    grad = _wide(grad_output)[0].masked_fill(argmax < 0, 0).flatten()
    summed = grad.new_zeros(grad_input.numel()).index_add_(0, place.flatten(), grad)
    grad_input += summed.view(grad_input.shape)


# ----------------------------------------------- deformable convolution and attention


def _deform(sizes: dict[str, int]) -> tuple[int, ...]:
    return _pick(sizes, 'dH dW padH padW dilationH dilationW group deformable_group')


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
    tensors = _wide(*_unmodulated(input, weight, offset))
    output.copy_(OPS.deform_conv2d(*tensors, *_deform(sizes), False))


def deform_conv_backward_input(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_input: Tensor,
    grad_offset: Tensor, weight: Tensor, columns: Tensor, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradient of `input` to `grad_input`, and write that of `offset`."""
    tensors = _wide(grad_output, *_unmodulated(input, weight, offset))
    grads = OPS._deform_conv2d_backward(*tensors, *_deform(sizes), False)
    grad_input += grads[0]
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_weight: Tensor,
    columns: Tensor, ones: Tensor, *, scale: float, **sizes: int,
) -> None:  # fmt: skip
    """Add the gradient of the weight, times `scale`, to `grad_weight`."""
    # The result does not depend on the weight; the kernel only needs its shape.
    tensors = _wide(grad_output, *_unmodulated(input, grad_weight, offset))
    grads = OPS._deform_conv2d_backward(*tensors, *_deform(sizes), False)
    grad_weight.add_(grads[1], alpha=scale)


def _modulated(sizes: dict[str, int]) -> tuple[int, ...]:
    names = 'stride_h stride_w pad_h pad_w dilation_h dilation_w group deformable_group'
    return _pick(sizes, names)


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
    tensors = _wide(input, weight, _without_nan(offset), mask, bias)
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
    tensors = _wide(grad_output, input, weight, _without_nan(offset), mask, bias)
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
    value, *rest = _wide(value, sampling_locations, attention_weights)
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


# ------------------------------------------------------------------------ focal loss


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def _weigh(loss: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Multiply losses (N, ...) by the weights of their targets' classes, if any.

    Background targets, for which mmcv reads outside the weights, have weight 1.
    """
    if not weight.numel():
        return loss
    known = (target >= 0) & (target < len(weight))
    factor = weight[target.clamp(0, len(weight) - 1)].masked_fill(~known, 1)
    return loss * factor.view(-1, *[1] * (loss.dim() - 1))


def _is_target(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the focal loss (1708.02002, eq. 5) of logits into `output` (N, classes).

    `target` (N,), int64, is the class, or any other number for the background;
    `weight` (classes,) or empty.
    """
    input, weight = _wide(input, weight)
    p, q = input.sigmoid(), 1 - input.sigmoid()
    own, other = -alpha * q**gamma * _log(p), (alpha - 1) * p**gamma * _log(q)
    loss = torch.where(_is_target(target, input.shape[1]), own, other)
    output.copy_(_weigh(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of each loss with respect to its logit into `grad_input`."""
    input, weight = _wide(input, weight)
    p, q = input.sigmoid(), 1 - input.sigmoid()
    own = -alpha * q**gamma * (q - gamma * p * _log(p))
    other = (alpha - 1) * p**gamma * (gamma * q * _log(q) - p)
    grad = torch.where(_is_target(target, input.shape[1]), own, other)
    grad_input.copy_(_weigh(grad, target, weight))


def _of_target(softmax: Tensor, target: Tensor) -> Tensor:
    return softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the focal loss of probabilities (N, classes) into `output` (N,).

    `target` and `weight` as above; targets below zero have no loss.
    """
    softmax, weight = _wide(softmax, weight)
    p = _of_target(softmax, target)
    loss = _weigh(-alpha * (1 - p) ** gamma * _log(p), target, weight)
    output.copy_(loss.masked_fill(target < 0, 0))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor,
    *, gamma: float, alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of the losses with respect to the logits into `grad_input`.

    The factor shared by the classes of a row is written into `buff` (N,).
    """
    softmax, weight = _wide(softmax, weight)
    p = _of_target(softmax, target)
    q = 1 - p
    factor = alpha * (gamma * q ** (gamma - 1) * p * _log(p) - q**gamma)
    factor = _weigh(factor, target, weight).masked_fill(target < 0, 0)
    buff.copy_(factor)
    own = _is_target(target, softmax.shape[1]).to(softmax.dtype)
    grad_input.copy_(factor[:, None] * (own - softmax))


# --------------------------------------------- CARAFE, masked convolutions and PSANet


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
    features, masks = _wide(features, masks)
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
    grad, features, masks = _wide(grad_output, features, masks)
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

    h_mask, w_mask = _pick(sizes, 'h_mask w_mask')
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
