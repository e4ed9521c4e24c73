"""MMSegmentation's segmentors and MMPretrain's classifiers, ready for exporters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.errors import UserError


class AnyAdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` of maps of any size, as two matrix products.

    ONNX has no such operator, and of windows PyTorch cannot translate it even for one
    bin. The bins are PyTorch's: from floor(i * n / bins) to
    ceil((i + 1) * n / bins).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if self.size == (1, 1):
            return x.mean((2, 3), keepdim=True)
        rows, columns = (
            _bin_means(x, full, bins)
            for full, bins in zip(x.shape[-2:], self.size, strict=True)
        )
        return rows @ x @ columns.mT


def _bin_means(x: Tensor, full: int, bins: int) -> Tensor:
    """Return the matrix (bins, full) that takes the mean of each bin."""
    place = torch.arange(full, device=x.device)
    index = torch.arange(bins, device=x.device)[:, None]
    first, last = index * full // bins, ((index + 1) * full + bins - 1) // bins
    inside = (place >= first) & (place < last)
    return inside.to(x) / (last - first)


class AnyUpsample(nn.Module):
    """MMSegmentation's `Upsample` with a scale; that one rounds sizes to constants."""

    def __init__(self, scale: float, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.scale = int(scale) if scale == int(scale) else scale
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = [
            full * self.scale
            if isinstance(self.scale, int)
            else torch.sym_int(full * self.scale)
            for full in x.shape[-2:]
        ]
        return F.interpolate(
            x, size=size, mode=self.mode, align_corners=self.align_corners
        )


def _replacement(module: Any) -> nn.Module | None:
    """Return what to use in place of a module that fixes sizes, or None."""
    if type(module) is nn.AdaptiveAvgPool2d:
        size: Any = module.output_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if None not in size:
            return AnyAdaptivePool(size)
    elif (
        type(module).__name__ == 'Upsample'
        and type(module).__module__.startswith('mmseg.')
        and module.size is None
        and isinstance(module.scale_factor, float)
    ):
        return AnyUpsample(module.scale_factor, module.mode, module.align_corners)
    return None


def free_sizes(model: nn.Module) -> None:
    """Replace the modules that would fix the sizes of maps, in place."""
    for name, child in model.named_children():
        other = _replacement(child)
        if other is None:
            free_sizes(child)
        else:
            setattr(model, name, other)


class Segmentor(nn.Module):
    """MMSegmentation's EncoderDecoder.

    Raises:
        UserError: It has several heads, or another way of inference.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        name = type(model).__name__
        if name != 'EncoderDecoder':
            raise UserError(
                f'segmentor {name} cannot be exported; expected EncoderDecoder'
            )
        self.model = model
        self.mode = model.test_cfg.get('mode', 'whole')
        if self.mode not in ('whole', 'slide'):
            raise UserError(
                f'test_cfg.mode={self.mode!r} cannot be exported; expected whole or '
                'slide'
            )

    def forward(
        self, images: Tensor, size: tuple[int, int], wanted: tuple[int, int]
    ) -> Tensor:
        """Return the logits (B, classes, H, W).

        Args:
            images: (B, C, H', W'), prepared.
            size: The images' height and width without padding.
            wanted: H and W of the result.
        """
        if self.mode == 'slide':
            logits = torch.cat([self._slide(x[None]) for x in images.unbind()])
        else:
            logits = self._whole(images)
        logits = logits[..., : size[0], : size[1]]
        return self._resize(logits, wanted)

    def _whole(self, images: Tensor) -> Tensor:
        head = self.model.decode_head
        logits = head(self.model.extract_feat(images))
        size = images.shape[-2], images.shape[-1]
        return self._resize(logits, size, head.align_corners)

    def _slide(self, images: Tensor) -> Tensor:
        """MMSegmentation's `slide_inference`, all windows in one batch."""
        height, width = images.shape[-2:]
        starts, sizes = [], []
        for full, crop, stride in zip(
            (height, width),
            self.model.test_cfg.crop_size,
            self.model.test_cfg.stride,
            strict=True,
        ):
            size = torch.sym_min(crop, full)
            count = (full - size + stride - 1) // stride + 1
            place = torch.arange(count, device=images.device) * stride
            starts.append(torch.minimum(place, place.new_full((), full - size)))
            sizes.append(size)
        # Pixel (y, x) of window (i, j) is pixel (rows[i, y], columns[j, x]).
        rows, columns = (
            start[:, None] + torch.arange(size, device=images.device)
            for start, size in zip(starts, sizes, strict=True)
        )
        windows = images[0][:, rows][..., columns]  # (C, I, h, J, w)
        logits = self._whole(windows.permute(1, 3, 0, 2, 4).flatten(0, 1))
        logits = logits.unflatten(0, (rows.shape[0], columns.shape[0]))
        logits = logits.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        rows, columns = rows.flatten(), columns.flatten()
        summed = _added(_added(logits, 1, rows, height), 2, columns, width)
        count_rows, count_columns = (
            _added(torch.ones_like(index, dtype=logits.dtype), 0, index, full)
            for index, full in ((rows, height), (columns, width))
        )
        return (summed / (count_rows[:, None] * count_columns))[None]

    def _resize(
        self, x: Tensor, size: tuple[int, int], align_corners: bool | None = None
    ) -> Tensor:
        if align_corners is None:
            align_corners = self.model.align_corners
        return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)


def _check_head(head: Any) -> None:
    from mmpretrain.models.heads import ClsHead

    if not isinstance(head, ClsHead) or (
        type(head)._get_predictions is not ClsHead._get_predictions
    ):
        raise UserError(
            f"the classifier's head {type(head).__name__} cannot be exported: its "
            'scores are not the softmax of its outputs'
        )


def _added(x: Tensor, dim: int, index: Tensor, length: int) -> Tensor:
    """Add up the rows of `x` that belong to the same index."""
    shape = [*x.shape[:dim], length, *x.shape[dim + 1 :]]
    return x.new_zeros(shape).index_add(dim, index, x)


class Classifier(nn.Module):
    """MMPretrain's ImageClassifier with one head."""

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        name = type(model).__name__
        if name != 'ImageClassifier':
            raise UserError(
                f'classifier {name} cannot be exported; expected ImageClassifier'
            )
        _check_head(model.head)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities (B, classes)."""
        logits = self.model(images, mode='tensor')
        return logits.softmax(-1)
