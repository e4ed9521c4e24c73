"""`mmmeta.optimize`: a backbone, or a model around one, made fast for inference."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.models.metaformer import MetaFormer
from mmmeta.ops import onednn
from mmmeta.ops.fused import FusedBlock, fuse_downsample
from mmmeta.ops.layout import strides_are_read
from mmmeta.ops.openvino import OpenVinoBackbone

Run = Callable[[Tensor], tuple[Tensor, ...]]


class OptimizedBackbone(nn.Module):
    """A backbone for inference: same input, same outputs, no gradients.

    Args:
        run: What maps images (B, 3, H, W) of `dtype` to the outputs.
        dtype: What the images are brought to; outputs come back in the dtype that the
            images had.
    """

    def __init__(self, run: Run, dtype: torch.dtype) -> None:
        super().__init__()
        self.run = run
        self.dtype = dtype
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the plain backbone would, for images (B, 3, H, W)."""
        return tuple(x.to(images.dtype) for x in self.run(images.to(self.dtype)))

    def train(self, mode: bool = True) -> 'OptimizedBackbone':
        """Stay in evaluation mode: what is folded cannot be trained."""
        return super().train(False)


def optimize(
    model: nn.Module, *, backend: str = 'auto', dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a copy of a model that is faster in inference; the model is left alone.

    Output within 1e-4 of the plain model's, in units of its standard deviation, in
    float32. A detector, segmentor or classifier has its backbone replaced, and in its
    other parts batch norms folded into the convolutions before them.

    Args:
        model: A backbone of this package, or a model with one as `backbone`.
        backend: 'onednn' (CPU): norms, scales and shortcuts folded into oneDNN's
            convolutions; no compilation, any image size at once. 'inductor':
            `torch.compile` with freezing; a minute for the first image, seconds more at
            the second size, none later. 'openvino' (CPU, extra `openvino`): that
            runtime, the fastest for small images; seconds at first, and a quarter of
            one for a size that comes again. 'triton' (CUDA GPU of capability 7.0 or
            more): kernels for stages of pooling or no mixing; seconds for the first
            image, any size at once; not run on a GPU yet. 'auto': 'onednn' on a CPU
            that has it, else 'inductor'. Default: 'auto'.
        dtype: `torch.float32` or `torch.bfloat16` ('triton': or `torch.float16`), of
            the backbone only. Default: the model's own.

    Raises:
        TypeError: No backbone of this package in the model.
        UserError: An unknown or unavailable backend, or one that has nothing for this
            backbone.
    """
    backbone = model if isinstance(model, MetaFormer) else _backbone_of(model)
    device = next(backbone.parameters()).device
    build = _find_backend(backend, device)
    dtype = dtype or next(backbone.parameters()).dtype
    with torch.no_grad():
        plain = copy.deepcopy(backbone).requires_grad_(False).eval()
        fast = OptimizedBackbone(build(plain, dtype), dtype)
    if backbone is model:
        return fast
    copied = copy.deepcopy(model, {id(backbone): fast}).requires_grad_(False).eval()
    channels_last = device.type == 'cpu' and strides_are_read()
    layout = torch.channels_last if channels_last else torch.preserve_format
    return _fold_batch_norms(copied).to(memory_format=layout)


def _backbone_of(model: nn.Module) -> MetaFormer:
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, MetaFormer):
        raise TypeError(
            'optimize takes a backbone of mmmeta, or a model with one as `backbone`; '
            f'got {type(model).__name__}'
            + ('' if backbone is None else f' with {type(backbone).__name__}')
        )
    return backbone


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    from mmcv.cnn import fuse_conv_bn

    for name, child in model.named_children():
        if not isinstance(child, OptimizedBackbone):
            setattr(model, name, fuse_conv_bn(child))
    return model


def _find_backend(name: str, device: torch.device) -> Callable[..., Any]:
    if name == 'auto':
        name = (
            'onednn' if device.type == 'cpu' and onednn.is_available() else 'inductor'
        )
    if name not in BACKENDS:
        raise UserError(
            f'unknown backend {name!r}; choose from {", ".join(["auto", *BACKENDS])}'
        )
    if name == 'triton':
        _check_triton(device)
    elif name != 'inductor' and device.type != 'cpu':
        raise UserError(
            f'backend {name!r} runs on a CPU, and the model is on {device}: use '
            "backend='inductor', or model.cpu()"
        )
    if name == 'onednn' and not onednn.is_available():
        raise UserError("this PyTorch has no oneDNN: use backend='inductor'")
    return BACKENDS[name]


def _check_triton(device: torch.device) -> None:
    capability, found = (0, 0), f'the model is on {device}'
    if device.type == 'cuda':
        capability = torch.cuda.get_device_capability(device)
        found += f' (capability {capability[0]}.{capability[1]})'
    installed = find_spec('triton') is not None
    if capability < (7, 0) or not installed:
        raise UserError(
            "backend 'triton' needs a model on a CUDA GPU of capability 7.0 or more, "
            f'and Triton; {found}{"" if installed else ", Triton is not installed"}: '
            "use model.cuda(), pip install triton, or backend='auto'"
        )


def _to_onednn(backbone: MetaFormer, dtype: torch.dtype) -> nn.Module:
    for stage in backbone.stages:
        fuse_downsample(stage.downsample)
        stage.blocks = nn.ModuleList(FusedBlock(block) for block in stage.blocks)
    return backbone.to(dtype)


def _to_inductor(backbone: MetaFormer, dtype: torch.dtype) -> Run:
    backbone = backbone.to(dtype)
    if dtype == torch.float32 and next(backbone.parameters()).is_cpu:
        backbone = backbone.to(memory_format=torch.channels_last)
    # Said here too, else Dynamo may take code of the same class that is not frozen.
    compiled = torch.compile(backbone, fullgraph=True, options={'freezing': True})

    def run(x: Tensor) -> tuple[Tensor, ...]:
        # Not an option of torch.compile: Dynamo looks at it too.
        with torch._inductor.config.patch(freezing=True):
            return compiled(x)

    return run


def _to_triton(backbone: MetaFormer, dtype: torch.dtype) -> nn.Module:
    from mmmeta.ops.gpu_blocks import to_triton  # not every machine has Triton

    return to_triton(backbone, dtype)


BACKENDS: dict[str, Callable[[MetaFormer, torch.dtype], Run]] = {
    'onednn': _to_onednn,
    'inductor': _to_inductor,
    'openvino': OpenVinoBackbone,
    'triton': _to_triton,
}
