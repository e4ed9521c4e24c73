"""`mmmeta.optimize`: faster inference of a backbone or a model with one."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch._inductor.config
from torch import Tensor, nn

from mmmeta.errors import UserError, one_line
from mmmeta.models.arguments import check_images
from mmmeta.models.metaformer import MetaFormer, MetaFormerBlock, MetaFormerStage
from mmmeta.ops import guards, onednn
from mmmeta.ops.layout import strides_are_read
from mmmeta.optimized.blocks import FusedBlock, fuse_downsample, is_foldable
from mmmeta.optimized.openvino import OpenVinoBackbone

Run = Callable[[Tensor], tuple[Tensor, ...]]
Model = TypeVar('Model', bound=nn.Module)
# Tolerances between an optimized model and the plain one, in standard deviations.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
GPU_TOLERANCE = 0.05  # for float32 on a GPU, where TF32 may round products
CHECKED_SIZE = (224, 256)


class OptimizedBackbone(nn.Module):
    """A backbone for inference: same input, same outputs, no gradients.

    Args:
        run: Maps images (B, 3, H, W) of `dtype` to the outputs.
        dtype: The images are converted to it; outputs have the original dtype of the
            images.
        dtypes: Those that `.to()` accepts.
        plain: The original backbone.
    """

    def __init__(
        self,
        run: Run,
        dtype: torch.dtype,
        dtypes: tuple[torch.dtype, ...],
        plain: MetaFormer,
    ) -> None:
        super().__init__()
        self.run = run
        self.dtype = dtype
        self.dtypes = dtypes
        self.device = next(plain.parameters()).device
        self.in_channels = plain.in_channels
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the plain backbone's outputs for images (B, 3, H, W).

        Raises:
            ValueError: As for the plain backbone.
            UserError: The model is being transformed, traced or compiled.
        """
        check_images(images, self.in_channels)
        if isinstance(self.run, nn.Module):
            self._check_use()
        batch = images.to(self.dtype)
        if not len(batch):  # for the shapes of the outputs
            batch = batch.new_zeros(1, *batch.shape[1:])
        with torch.autocast(images.device.type, enabled=False):
            outs = self.run(batch)
        return tuple(x[: len(images)].to(images.dtype) for x in outs)

    def train(self, mode: bool = True) -> 'OptimizedBackbone':
        """Stay in evaluation mode: folded weights cannot be trained."""
        return super().train(False)

    def _check_use(self) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            what = 'traced or compiled'
        elif guards.in_transform():
            what = 'differentiated or transformed'
        else:
            return
        raise UserError(
            f'an optimized model cannot be {what}: use the plain model for that'
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if isinstance(self.run, nn.Module):
            wanted = fn(torch.empty(0, dtype=self.dtype, device=self.device))
            if wanted.dtype not in self.dtypes or wanted.device != self.device:
                raise UserError(
                    f'a model optimized for {self.dtype} on {self.device} cannot be '
                    f'moved to {wanted.dtype} on {wanted.device}: move the plain '
                    'model, then optimize it'
                )
            self.dtype = wanted.dtype
        return super()._apply(fn, recurse)


def optimize(
    model: nn.Module, *, backend: str = 'auto', dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a copy of a model that is faster in inference; the model is not changed.

    In float32 outputs are within 1e-4 standard deviations of the plain model's. In a
    detector, segmentor or classifier the backbone is replaced, and the weights of the
    other convolutions are converted to the memory format of the maps. Layers of the
    backbone that were modified or hooked are kept, and a warning names them. The copy
    is compared with the model on a random image ('inductor': on the first image).

    Args:
        model: A backbone of this package, or a model with one as `backbone`.
        backend: 'onednn' (CPU): norms, scales and shortcuts folded into oneDNN's
            convolutions; no compilation, any image size. 'inductor': `torch.compile`
            with freezing; takes a minute at the first image, seconds at the second
            size, and nothing later. 'openvino' (CPU, extra `openvino`): OpenVINO, the
            fastest for small images; takes seconds at first, and a quarter of a second
            for each repeated size. 'auto': 'onednn' on a CPU that supports it for the
            dtype, else 'inductor'. Default: 'auto'.
        dtype: `torch.float32` or `torch.bfloat16` ('inductor': or `torch.float16`), of
            the backbone only. Default: the model's own.

    Raises:
        TypeError: The model has no backbone of this package.
        UserError: The backend is unknown, unavailable or unsuitable for this backbone,
            or the copy's outputs differ from the model's.
    """
    backbone = model if isinstance(model, MetaFormer) else _backbone_of(model)
    weight = next(backbone.parameters())
    dtype = dtype or weight.dtype
    name = _pick_backend(backend, weight.device, dtype)
    try:
        with torch.no_grad():
            fast = _build(name, backbone, dtype)
            if backbone is model:
                return fast
            return _in_layout_of_maps(_copy(model, {id(backbone): fast}))
    except UserError:
        raise
    except Exception as error:  # the model may contain any user code
        raise UserError(
            f'backend {name!r} cannot be used for this model ({one_line(error)}): use '
            'the plain model'
        ) from error


def _build(name: str, backbone: MetaFormer, dtype: torch.dtype) -> OptimizedBackbone:
    plain = _copy(backbone)
    run = BACKENDS[name](_copy(backbone), dtype)
    fast = OptimizedBackbone(run, dtype, _dtypes(name), plain)
    if name != 'inductor':  # that one is compared on the first image
        _check_backbone(plain, fast, dtype, name)
    return fast


def _copy(model: Model, memo: dict[int, Any] | None = None) -> Model:
    """Return a deep copy for inference, including weights computed by a hook."""
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # e.g. from pruning
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(model, memo).requires_grad_(False)
    copied.eval()  # may return None, as MMDetection's backbones do
    return copied


def _backbone_of(model: nn.Module) -> MetaFormer:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, MetaFormer):
        raise TypeError(
            'optimize takes an mmmeta backbone, or a model with one as `backbone`; '
            f'got {type(model).__name__}'
            + ('' if backbone is None else f' with {type(backbone).__name__}')
        )
    return backbone


def _in_layout_of_maps(model: nn.Module) -> nn.Module:
    """Convert plain convolutions outside the backbone to `channels_last` on a CPU.

    Heads of regions are left alone: these come in contiguous memory, so that nothing is
    gained, and Grid R-CNN's takes views that need it.
    """
    weight = next(model.parameters(), None)
    if weight is None or weight.device.type != 'cpu' or not strides_are_read():
        return model
    for name, child in model.named_children():
        for module in () if name in ('backbone', 'roi_head') else child.modules():
            if type(module) is nn.Conv2d:
                module.to(memory_format=torch.channels_last)
    return model


def _check_backbone(
    plain: MetaFormer, fast: OptimizedBackbone, dtype: torch.dtype, backend: str
) -> None:
    """Compare the outputs for one random image; raise UserError if they differ."""
    weight = next(plain.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (1, plain.in_channels, *CHECKED_SIZE)
    images = torch.randn(shape, generator=generator, device='cpu').to(weight)
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices):  # a user's layer may draw numbers
        with torch.enable_grad():  # makes the guards choose the plain blocks
            expected = plain(images)
        found = fast(images)
    _compare(tuple(x.detach() for x in expected), found, dtype, backend)


def _compare(
    expected: tuple[Tensor, ...], found: tuple[Tensor, ...], dtype: torch.dtype, by: str
) -> None:
    """Raise UserError if the outputs of `by` are not the expected ones.

    Infinite and NaN values must be at the same positions in both.
    """
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        a, b = a.double(), b.double()
        finite = a.isfinite()
        scale = a[finite].std() if finite.sum() > 1 else a.new_ones(())
        error = float((a - b)[finite].abs().max() / scale) if finite.any() else 0.0
        same = a.shape == b.shape and torch.equal(finite, b.isfinite())
        allowed = TOLERANCES.get(dtype, 1e-3)
        if a.is_cuda:
            allowed = max(allowed, GPU_TOLERANCE)
        # Written so that NaN fails.
        if not (same and (error <= allowed or not scale > 0)):
            raise UserError(
                f'backend {by!r} is off by {error:.2g} standard deviations in this '
                f"backbone's output {i}: use the plain model, or another backend"
            )


def _pick_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    if name == 'auto':
        served = device.type == 'cpu' and dtype in onednn.dtypes()
        name = 'onednn' if served else 'inductor'
    if name not in BACKENDS:
        raise UserError(
            f'unknown backend {name!r}; choose from {", ".join(["auto", *BACKENDS])}'
        )
    if name != 'inductor' and device.type != 'cpu':
        raise UserError(
            f'backend {name!r} runs on a CPU, but the model is on {device}: use '
            "backend='inductor', or model.cpu()"
        )
    if name == 'onednn' and not onednn.is_available():
        raise UserError("this PyTorch has no oneDNN: use backend='inductor'")
    if dtype not in _dtypes(name):
        names = ' or '.join(str(d).removeprefix('torch.') for d in _dtypes(name))
        raise UserError(
            f'backend {name!r} supports {names}, but the model is in '
            f'{str(dtype).removeprefix("torch.")}: pass dtype=torch.float32'
        )
    return name


def _dtypes(backend: str) -> tuple[torch.dtype, ...]:
    """Return the dtypes that a backend supports."""
    both = (torch.float32, torch.bfloat16)
    return {
        'onednn': onednn.dtypes(),
        'openvino': both,
        'inductor': (*both, torch.float16, torch.float64),
    }[backend]


def _to_onednn(backbone: MetaFormer, dtype: torch.dtype) -> nn.Module:
    kept = []
    like = next(backbone.parameters())
    for i, stage in enumerate(backbone.stages):
        if type(stage) is not MetaFormerStage:
            kept.append(f'stages.{i}')
            continue
        if is_foldable(stage.downsample, like):
            stage.downsample = fuse_downsample(stage.downsample)
        else:
            kept.append(f'stages.{i}.downsample')
        for j, block in enumerate(stage.blocks):
            if isinstance(block, MetaFormerBlock) and is_foldable(block, like):
                stage.blocks[j] = FusedBlock(block)
            else:
                kept.append(f'stages.{i}.blocks.{j}')
    if kept:
        shown = ', '.join(kept[:4]) + f' and {len(kept) - 4} more' * (len(kept) > 4)
        warnings.warn(
            f'optimize keeps {shown} unchanged: hooks or modified layers were found',
            stacklevel=4,
        )
    return backbone.to(dtype)


def _to_inductor(backbone: MetaFormer, dtype: torch.dtype) -> Run:
    backbone = backbone.to(dtype)
    if dtype == torch.float32 and next(backbone.parameters()).is_cpu:
        backbone = backbone.to(memory_format=torch.channels_last)
    # Also set here, else Dynamo may reuse unfrozen code of the same class.
    compiled = torch.compile(backbone, fullgraph=True, options={'freezing': True})
    is_checked = False

    def run(x: Tensor) -> tuple[Tensor, ...]:
        nonlocal is_checked
        # Set globally because Dynamo reads it too, not only torch.compile's options.
        with torch._inductor.config.patch(freezing=True):
            outs = compiled(x)
        if not is_checked:  # not in `optimize`, where it would compile one more size
            _compare(backbone(x), outs, dtype, 'inductor')
            is_checked = True
        return outs

    return run


BACKENDS: dict[str, Callable[[MetaFormer, torch.dtype], Any]] = {
    'onednn': _to_onednn,
    'inductor': _to_inductor,
    'openvino': OpenVinoBackbone,
}
