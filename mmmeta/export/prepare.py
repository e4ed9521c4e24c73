"""A config's test pipeline as part of the model: resizing, padding, normalization.

Sizes are computed from the image's own, so that a file takes images of any size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.errors import UserError

# Of an image of any size while it is exported: an expression.
Size: TypeAlias = int | torch.SymInt
# Steps that change nothing but the data's container, or only annotations.
NEUTRAL = ('LoadAnnotations', 'PackDetInputs', 'PackSegInputs', 'PackInputs')
LOADING = ('LoadImageFromFile', 'InferencerLoader')


class Resize(nn.Module, ABC):
    """Resizes images (B, C, H, W) of whole numbers, as OpenCV or Pillow do.

    Both compute in fixed-point numbers and round to 8 bits. OpenCV's bilinear and
    Pillow's methods are computed like that; OpenCV's bicubic differs from it by one in
    some values.

    Args:
        mode: nearest, bilinear or bicubic.
        by_pillow: By Pillow, which takes means over all pixels when it makes an image
            smaller, instead of OpenCV.
    """

    def __init__(self, mode: str, by_pillow: bool) -> None:
        super().__init__()
        self.mode = mode
        self.by_pillow = by_pillow

    @abstractmethod
    def size(self, height: Size, width: Size) -> tuple[Size, Size]:
        """Return the new height and width for an image's."""

    def forward(self, x: Tensor) -> Tensor:
        size: Any = self.size(*x.shape[-2:])
        if self.by_pillow:
            return _by_pillow(x, size, self.mode)
        if self.mode == 'nearest':
            return F.interpolate(x, size=size, mode='nearest')
        if self.mode == 'bilinear':
            return _opencv_bilinear(x, size)
        x = F.interpolate(x, size=size, mode=self.mode, align_corners=False)
        return x.clamp(0, 255).round()


def _by_pillow(x: Tensor, size: Any, mode: str) -> Tensor:
    """Resize whole numbers from 0 to 255 as Pillow does.

    Source: Resample.c, `precompute_coeffs` and the two passes of
    `ImagingResampleInner`, rows first. As products of matrices: runtimes differ in how
    they resize by cubic functions with anti-aliasing.
    """
    for new, dim in ((size[1], -1), (size[0], -2)):
        weights = _pillow_weights(x, x.shape[dim], new, mode)
        x = x @ weights.mT if dim == -1 else weights @ x
        x = (x + 0.5).floor().clamp(0, 255)
    return x


def _pillow_weights(x: Tensor, full: Size, new: Size, mode: str) -> Tensor:
    """Return the matrix (new, full) of the pixels' weights in each new pixel."""
    # Distances from the middle of the new pixel, as exact multiples of 1 / (2 * unit).
    unit = torch.sym_max(full, new)
    pixels = 2 * torch.arange(full, device=x.device) + 1
    middles = 2 * torch.arange(new, device=x.device)[:, None] + 1
    offsets: Any = pixels * new - middles * full
    distance: Any = offsets.abs().to(x) / (2 * unit)
    if mode == 'bilinear':
        weights = (1 - distance).clamp(min=0)
    else:
        a = -0.5
        near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * a
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


def _opencv_bilinear(x: Tensor, size: Any) -> Tensor:
    """Resize whole numbers from 0 to 255 as OpenCV does, but for less than one in 100.

    Source: resize.cpp, `HResizeLinear` and `VResizeLinear` of 8 bits: weights of 11
    bits, first along rows, and sums that are cut twice before they are rounded.
    """
    whole = x.int()
    left, right, *weights = _taps(x, x.shape[-1], size[1])
    rows = whole[..., left] * weights[0] + whole[..., right] * weights[1]
    rows = _cut(rows, 16)
    top, bottom, *weights = _taps(x, x.shape[-2], size[0])
    sums = [
        _cut(rows[..., index, :] * weight[:, None], 1 << 16)
        for index, weight in zip((top, bottom), weights, strict=True)
    ]
    return _cut(sums[0] + sums[1] + 2, 4).float()


def _taps(x: Tensor, full: Size, new: Size) -> tuple[Tensor, ...]:
    """Return the two pixels between which each new one is, and their weights."""
    precise = x.new_zeros((), dtype=torch.float64)
    scale = 1 / (precise.new_full((), new) / precise.new_full((), full))
    middle = torch.arange(new, dtype=precise.dtype, device=x.device) + 0.5
    place = (middle * scale - 0.5).float()
    first = place.floor()
    outside = (first < 0) | (first >= full - 1)
    part = torch.where(outside, 0, place - first)
    index = first.clamp(min=0).long()
    weights = [(share * 2048).round().int() for share in (1 - part, part)]
    last = index.new_full((), full - 1)
    return index, torch.minimum(index + 1, last), *weights


def _cut(x: Tensor, divisor: int) -> Tensor:
    return torch.div(x, divisor, rounding_mode='trunc')


class ResizeToScale(Resize):
    """mmcv's Resize: to fit into `scale` (width, height) pixels, or to exactly it."""

    def __init__(self, scale: Sequence[int], keep_ratio: bool, **options: Any) -> None:
        super().__init__(**options)
        self.scale = tuple(scale)
        self.keep_ratio = keep_ratio

    def size(self, height: Size, width: Size) -> tuple[Size, Size]:
        if not self.keep_ratio:
            return self.scale[1], self.scale[0]
        ratio = torch.sym_min(
            max(self.scale) / torch.sym_max(height, width),
            min(self.scale) / torch.sym_min(height, width),
        )
        return torch.sym_int(height * ratio + 0.5), torch.sym_int(width * ratio + 0.5)


class ResizeByFactor(Resize):
    """mmcv's Resize with a `scale_factor` (width, height)."""

    def __init__(self, factor: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.factor = tuple(factor)

    def size(self, height: Size, width: Size) -> tuple[Size, Size]:
        return (
            torch.sym_int(height * self.factor[1] + 0.5),
            torch.sym_int(width * self.factor[0] + 0.5),
        )


class ResizeShorter(Resize):
    """MMPretrain's ResizeEdge: one edge to `scale` pixels, the other in proportion."""

    def __init__(self, scale: int, edge: str, **options: Any) -> None:
        super().__init__(**options)
        self.scale = scale
        self.edge = edge

    def size(self, height: Size, width: Size) -> tuple[Size, Size]:
        scale = self.scale
        if self.edge in ('width', 'height'):
            full = width if self.edge == 'width' else height
            sides = scale * height // full, scale * width // full
            return (sides[0], scale) if self.edge == 'width' else (scale, sides[1])
        pick = torch.sym_min if self.edge == 'short' else torch.sym_max
        full = pick(height, width)
        return scale * height // full, scale * width // full


class ResizeToMultiple(Resize):
    """MMSegmentation's ResizeToMultiple: up to the next multiples of `divisor`."""

    def __init__(self, divisor: int, **options: Any) -> None:
        super().__init__(**options)
        self.divisor = divisor

    def size(self, height: Size, width: Size) -> tuple[Size, Size]:
        return next_multiple(height, self.divisor), next_multiple(width, self.divisor)


class CenterCrop(nn.Module):
    """The middle `size` (width, height) pixels, or fewer of a smaller image."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.width, self.height = size

    def forward(self, x: Tensor) -> Tensor:
        for dim, wanted in ((2, self.height), (3, self.width)):
            full = x.shape[dim]
            size = torch.sym_min(wanted, full)
            # Of a slice with such a start PyTorch would forget the size.
            index = torch.arange(size, device=x.device) + half_even(full - size)
            x = x.index_select(dim, index)
        return x


class PadTo(nn.Module):
    """Pads at the right and the bottom to multiples of `divisor`, or to a `size`."""

    def __init__(
        self, value: float, divisor: int = 1, size: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.value = value
        self.divisor = divisor
        self.size = size  # (height, width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.size is not None:
            target = [
                torch.sym_max(wanted, full)
                for wanted, full in zip(self.size, (height, width), strict=True)
            ]
        elif self.divisor > 1:
            target = [next_multiple(full, self.divisor) for full in (height, width)]
        else:
            return x
        pads: Any = (0, target[1] - width, 0, target[0] - height)
        return F.pad(x, pads, value=self.value)


def next_multiple(value: Size, divisor: int) -> Size:
    """Return the least multiple of `divisor` that is not below `value`."""
    return (value + divisor - 1) // divisor * divisor


def half_even(value: Size) -> Size:
    """Return round(value / 2), with ties to even numbers, of an integer >= 0."""
    return value // 2 + (value % 4) // 3


class Prepare(nn.Module):
    """Makes an image the batch that the model was trained for.

    Args:
        steps: The test pipeline's steps that change the image, in order.
        mean: Per channel of the model's input; None: no normalization.
        std: Likewise.
        swap: Whether the model's channels are in the order of the opposite of RGB.
        pad: The padding after normalization.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        steps: Sequence[nn.Module],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        swap: bool,
        pad: nn.Module,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.swap = swap
        self.pad = pad
        self.normalizes = mean is not None
        for name, values in (('mean', mean), ('std', std)):
            tensor = torch.tensor(list(values or [0.0]), dtype=torch.float32)
            self.register_buffer(name, tensor.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the batch (B, C, H', W') and the images' size in it.

        Args:
            images: RGB, uint8 (B, H, W, C).

        Returns:
            The batch, float32, and the height and width without padding.
        """
        x = images.permute(0, 3, 1, 2).float()
        if self.swap:
            x = x.flip(1)
        for step in self.steps:
            x = step(x)
        size = x.shape[-2], x.shape[-1]
        if self.normalizes:
            x = (x - self.mean) / self.std
        return self.pad(x), size


def build_prepare(pipeline: Sequence[Mapping[str, Any]], preprocessor: Any) -> Prepare:
    """Return a test pipeline and a data preprocessor as one module.

    Args:
        pipeline: The config's `test_dataloader.dataset.pipeline`.
        preprocessor: The model's `data_preprocessor`, of any of the three libraries.

    Raises:
        UserError: A step or a setting is not known here.
    """
    steps = [step for given in pipeline if (step := _step(given)) is not None]
    _check_preprocessor(preprocessor)
    normalizes = getattr(preprocessor, '_enable_normalize', False)
    mean, std = (
        getattr(preprocessor, name).flatten().tolist() if normalizes else None
        for name in ('mean', 'std')
    )
    # Pipelines read BGR. MMPretrain's attribute is to_rgb.
    to_rgb = getattr(preprocessor, '_channel_conversion', False) or getattr(
        preprocessor, 'to_rgb', False
    )
    return Prepare(steps, mean, std, not to_rgb, _padding(preprocessor))


def _check_preprocessor(preprocessor: Any) -> None:
    known = ('DetDataPreprocessor', 'SegDataPreProcessor', 'ClsDataPreprocessor')
    name = type(preprocessor).__name__
    if name not in known:
        raise UserError(
            f'data_preprocessor {name} cannot be exported; expected one of '
            f'{", ".join(known)}'
        )


def _padding(preprocessor: Any) -> PadTo:
    if hasattr(preprocessor, 'pad_val'):  # MMSegmentation
        given = preprocessor.test_cfg or {}
        return PadTo(
            preprocessor.pad_val, given.get('size_divisor') or 1, given.get('size')
        )
    return PadTo(
        getattr(preprocessor, 'pad_value', 0),
        getattr(preprocessor, 'pad_size_divisor', 1) or 1,
    )


def _step(given: Mapping[str, Any]) -> nn.Module | None:
    """Return a pipeline's step as a module; None if it leaves the image as it is."""
    options = dict(given)
    kind = str(options.pop('type')).rpartition('.')[2]
    if kind in NEUTRAL:
        return None
    if kind in LOADING:
        if options.get('color_type', 'color') != 'color':
            raise UserError(
                f'{kind} with color_type={options["color_type"]!r} cannot be exported; '
                'expected images of three channels'
            )
        return None
    build = STEPS.get(kind)
    if build is None:
        raise UserError(
            f'step {kind} of the test pipeline cannot be exported; known are '
            f'{", ".join([*STEPS, *NEUTRAL])}'
        )
    return build(options)


def _resizing(options: dict[str, Any]) -> dict[str, Any]:
    """Take what all kinds of resizing share out of a step's options."""
    mode = options.pop('interpolation', None) or 'bilinear'
    backend = options.pop('backend', None) or 'cv2'
    modes = {
        'cv2': ('nearest', 'bilinear', 'bicubic'),
        'pillow': ('bilinear', 'bicubic'),
    }
    if mode not in modes.get(backend, ()):
        raise UserError(
            f'resizing with interpolation={mode!r} and backend={backend!r} cannot be '
            'exported; expected nearest, bilinear or bicubic with cv2, or bilinear or '
            'bicubic with pillow'
        )
    return dict(mode=mode, by_pillow=backend == 'pillow')


def _resize(options: dict[str, Any]) -> Resize:
    how = _resizing(options)
    scale, factor = options.get('scale'), options.get('scale_factor')
    if scale is not None:
        scale = (scale, scale) if isinstance(scale, int) else scale
        return ResizeToScale(scale, options.get('keep_ratio', False), **how)
    if factor is None:
        raise UserError('step Resize of the test pipeline has no scale')
    return ResizeByFactor(
        (factor, factor) if isinstance(factor, (int, float)) else factor, **how
    )


def _resize_edge(options: dict[str, Any]) -> Resize:
    how = _resizing(options)
    return ResizeShorter(options['scale'], options.get('edge', 'short'), **how)


def _resize_to_multiple(options: dict[str, Any]) -> Resize:
    return ResizeToMultiple(options.get('size_divisor', 32), **_resizing(options))


def _center_crop(options: dict[str, Any]) -> CenterCrop:
    size = options['crop_size']
    if options.get('auto_pad'):
        raise UserError('CenterCrop with auto_pad cannot be exported')
    return CenterCrop((size, size) if isinstance(size, int) else size)


def _pad(options: dict[str, Any]) -> PadTo:
    value = options.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    value = value if isinstance(value, (int, float)) else value[0]
    if options.get('pad_to_square') or options.get('padding_mode', 'constant') != (
        'constant'
    ):
        raise UserError('Pad with pad_to_square or a padding_mode cannot be exported')
    size = options.get('size')
    return PadTo(
        value, options.get('size_divisor') or 1, None if size is None else size[::-1]
    )


STEPS = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'ResizeToMultiple': _resize_to_multiple,
    'CenterCrop': _center_crop,
    'Pad': _pad,
}
