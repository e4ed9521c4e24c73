"""`mmmeta.optimize`: a backbone, or a model around one, made fast for inference."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor, nn

from mmmeta.errors import UserError, one_line
from mmmeta.models.metaformer import MetaFormer, MetaFormerStage, check_images
from mmmeta.ops import guards, onednn
from mmmeta.ops.layout import strides_are_read
from mmmeta.optimized.blocks import FusedBlock, fuse_downsample, is_foldable
from mmmeta.optimized.openvino import OpenVinoBackbone

Run = Callable[[Tensor], tuple[Tensor, ...]]
# What may come between an optimized model and the plain one, in standard deviations.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
GPU_TOLERANCE = 0.05  # of float32 there, whose products TF32 may round
CHECKED_SIZE = (224, 256)


class OptimizedBackbone(nn.Module):
    """A backbone for inference: same input, same outputs, no gradients.

    Args:
        run: What maps images (B, 3, H, W) of `dtype` to the outputs.
        dtype: What the images are brought to; outputs come back in the dtype that the
            images had.
        dtypes: Those that `.to()` may ask for.
        plain: The backbone that it stands for.
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
        """Return what the plain backbone would, for images (B, 3, H, W).

        Raises:
            ValueError: As the plain backbone does.
            UserError: It is asked for derivatives, or traced.
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
        """Stay in evaluation mode: what is folded cannot be trained."""
        return super().train(False)

    def _check_use(self) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            what = 'traced or compiled'
        elif guards.in_transform():
            what = 'differentiated or transformed'
        else:
            return
        raise UserError(
            f'an optimized model cannot be {what}: do so with the plain one'
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if isinstance(self.run, nn.Module):
            wanted = fn(torch.empty(0, dtype=self.dtype, device=self.device))
            if wanted.dtype not in self.dtypes or wanted.device != self.device:
                raise UserError(
                    f'a model optimized for {self.dtype} on {self.device} cannot go to '
                    f'{wanted.dtype} on {wanted.device}: move the plain model, and '
                    'optimize that'
                )
            self.dtype = wanted.dtype
        return super()._apply(fn, recurse)


def optimize(
    model: nn.Module, *, backend: str = 'auto', dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a copy of a model that is faster in inference; the model is left alone.

    Output within 1e-4 of the plain model's, in units of its standard deviation, in
    float32. A detector, segmentor or classifier has its backbone replaced, and the
    weights of its other convolutions brought into the layout of the maps. Layers of the
    backbone that were changed or have hooks stay as they are, and a warning names them.
    It is compared with the model's on a random image ('inductor': on the first one).

    Args:
        model: A backbone of this package, or a model with one as `backbone`.
        backend: 'onednn' (CPU): norms, scales and shortcuts folded into oneDNN's
            convolutions; no compilation, any image size at once. 'inductor':
            `torch.compile` with freezing; a minute for the first image, seconds more at
            the second size, none later. 'openvino' (CPU, extra `openvino`): that
            runtime, the fastest for small images; seconds at first, and a quarter of
            one for a size that comes again. 'auto': 'onednn' on a CPU that has it for
            this dtype, else 'inductor'. Default: 'auto'.
        dtype: `torch.float32` or `torch.bfloat16` ('inductor': or `torch.float16`), of
            the backbone only. Default: the model's own.

    Raises:
        TypeError: No backbone of this package in the model.
        UserError: An unknown or unavailable backend, one that has nothing for this
            backbone, or a copy that does not give what the model gives.
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
    except Exception as error:  # code of the user's may be anywhere in it
        raise UserError(
            f'backend {name!r} cannot be used for this model ({one_line(error)}): use '
            'the model as it is'
        ) from error


def _build(name: str, backbone: MetaFormer, dtype: torch.dtype) -> OptimizedBackbone:
    plain = _copy(backbone)
    run = BACKENDS[name](_copy(backbone), dtype)
    fast = OptimizedBackbone(run, dtype, _dtypes(name), plain)
    if name != 'inductor':  # which looks at the first image, see there
        _check_backbone(plain, fast, dtype, name)
    return fast


def _copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy for inference, also of weights that a hook computed."""
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # as pruning leaves it
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo).requires_grad_(False).eval()


def _backbone_of(model: nn.Module) -> MetaFormer:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, MetaFormer):
        raise TypeError(
            'optimize takes a backbone of mmmeta, or a model with one as `backbone`; '
            f'got {type(model).__name__}'
            + ('' if backbone is None else f' with {type(backbone).__name__}')
        )
    return backbone


def _in_layout_of_maps(model: nn.Module) -> nn.Module:
    """Bring the plain convolutions around a backbone into `channels_last` on a CPU."""
    weight = next(model.parameters(), None)
    if weight is None or weight.device.type != 'cpu' or not strides_are_read():
        return model
    for name, child in model.named_children():
        for module in child.modules() if name != 'backbone' else ():
            if type(module) is nn.Conv2d:
                module.to(memory_format=torch.channels_last)
    return model


def _check_backbone(
    plain: MetaFormer, fast: OptimizedBackbone, dtype: torch.dtype, backend: str
) -> None:
    """Compare the outputs for one random image; raises UserError where they differ."""
    weight = next(plain.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (1, plain.in_channels, *CHECKED_SIZE)
    images = torch.randn(shape, generator=generator, device='cpu').to(weight)
    with torch.enable_grad():  # by the plain blocks
        expected = plain(images)
    _compare(tuple(x.detach() for x in expected), fast(images), dtype, backend)


def _compare(
    expected: tuple[Tensor, ...], found: tuple[Tensor, ...], dtype: torch.dtype, by: str
) -> None:
    """Raise UserError where the outputs of `by` are not those expected.

    What is not finite in the one has to be so in the other.
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
        # Written so that NaN does not pass.
        if not (same and (error <= allowed or not scale > 0)):
            raise UserError(
                f'backend {by!r} is off by {error:.2g} standard deviations in this '
                f"backbone's output {i}: use the model as it is, or another backend"
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
            f'backend {name!r} runs on a CPU, and the model is on {device}: use '
            "backend='inductor', or model.cpu()"
        )
    if name == 'onednn' and not onednn.is_available():
        raise UserError("this PyTorch has no oneDNN: use backend='inductor'")
    if dtype not in _dtypes(name):
        names = ' or '.join(str(d).removeprefix('torch.') for d in _dtypes(name))
        raise UserError(
            f'backend {name!r} computes in {names}, and the model is in '
            f'{str(dtype).removeprefix("torch.")}: give dtype=torch.float32'
        )
    return name


def _dtypes(backend: str) -> tuple[torch.dtype, ...]:
    """Return what a backend computes in."""
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
            if is_foldable(block, like):
                stage.blocks[j] = FusedBlock(block)
            else:
                kept.append(f'stages.{i}.blocks.{j}')
    if kept:
        shown = ', '.join(kept[:4]) + f' and {len(kept) - 4} more' * (len(kept) > 4)
        warnings.warn(
            f'optimize leaves {shown} as it is: it has hooks, or layers that are not '
            'as mmmeta builds them',
            stacklevel=4,
        )
    return backbone.to(dtype)


def _to_inductor(backbone: MetaFormer, dtype: torch.dtype) -> Run:
    backbone = backbone.to(dtype)
    if dtype == torch.float32 and next(backbone.parameters()).is_cpu:
        backbone = backbone.to(memory_format=torch.channels_last)
    # Said here too, else Dynamo may take code of the same class that is not frozen.
    compiled = torch.compile(backbone, fullgraph=True, options={'freezing': True})
    is_checked = False

    def run(x: Tensor) -> tuple[Tensor, ...]:
        nonlocal is_checked
        # Not an option of torch.compile: Dynamo looks at it too.
        with torch._inductor.config.patch(freezing=True):
            outs = compiled(x)
        if not is_checked:  # not in `optimize`: each new size is compiled for
            _compare(backbone(x), outs, dtype, 'inductor')
            is_checked = True
        return outs

    return run


BACKENDS: dict[str, Callable[[MetaFormer, torch.dtype], Any]] = {
    'onednn': _to_onednn,
    'inductor': _to_inductor,
    'openvino': OpenVinoBackbone,
}
