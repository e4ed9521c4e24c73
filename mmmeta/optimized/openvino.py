"""A backbone in OpenVINO's runtime, for inference on a CPU."""

import os
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmmeta.errors import UserError, require
from mmmeta.models.layers import MapLayerNorm
from mmmeta.models.metaformer import MetaFormer
from mmmeta.ops.layout import strides_are_read

KEPT = 4  # models for one shape each; each has its own copy of the weights
# Pixels of an image up to which OpenVINO's norm of a whole map is exact enough: it sums
# the map in one go, and is off by 1e-4 of the deviation at 800x1216.
SMALL = 512 * 512
# What a model for one shape may differ by from the one for any, in standard deviations:
# OpenVINO 2026.4 is off by 1e-2 for attention over very few positions.
TOLERANCES = {'f32': 1e-3, 'bf16': 0.3}


class NormByMeans(nn.Module):
    """`MapLayerNorm` from means of means, exact at any size and a little slower.

    Args:
        norm: The plain norm.
    """

    def __init__(self, norm: MapLayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        mean, square = (
            y.mean((2, 3), keepdim=True).mean(1, keepdim=True) for y in (x, x * x)
        )
        norm = self.norm
        scale = (square - mean * mean + norm.eps).rsqrt() * norm.weight.view(-1, 1, 1)
        shift = -mean * scale
        return x * scale + (
            shift if norm.bias is None else shift + norm.bias.view(-1, 1, 1)
        )


class ChannelsLast(nn.Module):
    """A backbone whose maps are (B, H, W, C), as OpenVINO has them inside."""

    def __init__(self, backbone: MetaFormer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.permute(0, 2, 3, 1) for x in self.backbone(images))


class OpenVinoBackbone:
    """Maps images (B, 3, H, W) to what the backbone does, by compiled models.

    The first call of a shape is done by a model for any shape. One for this shape alone
    takes a quarter of a second to compile and up to a fifth off each call, so it is
    made when the shape comes again; the last `KEPT` that were used stay.

    It is compared with the one for any shape, which stays in use where they differ.

    OpenVINO has threads of its own, and PyTorch's wait actively for a while after their
    work. So nothing here is done by PyTorch.

    Args:
        backbone: The plain backbone, which is used up.
        dtype: What is computed in, `torch.float32` or `torch.bfloat16`.

    Raises:
        UserError: OpenVINO is not installed, or the process has one core only.
    """

    def __init__(self, backbone: MetaFormer, dtype: torch.dtype) -> None:
        if hasattr(os, 'sched_getaffinity') and len(os.sched_getaffinity(0)) == 1:
            # Compiling for several shapes ends in a segmentation fault in OpenVINO.
            raise UserError(
                "backend 'openvino' needs two processor cores, and this process may "
                "use one: use backend='onednn', or give it more (taskset, cgroups)"
            )
        self._openvino = require('openvino', 'openvino', "optimize(backend='openvino')")
        self._options = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            # The default is bfloat16 where the processor has it.
            'INFERENCE_PRECISION_HINT': 'bf16' if dtype == torch.bfloat16 else 'f32',
        }
        self._channels_last = strides_are_read()
        self._small = self._convert(backbone.float())
        self._large = self._convert(_norms_by_means(backbone))
        channels = backbone.in_channels
        self._any = self._compile(self._large, [-1, channels, -1, -1])
        self._lock = threading.Lock()
        self._seen: set[tuple[int, ...]] = set()
        self._kept: dict[tuple[int, ...], Any] = {}  # the last used comes last

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return float32 maps (B, C, H, W), each in memory of its own."""
        array = np.ascontiguousarray(images.detach().float().numpy())
        with self._lock:  # a request serves one thread at a time
            outs = self._run(array)
        maps = [torch.from_numpy(out) for out in outs]
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps

    def __reduce__(self) -> tuple:
        raise UserError(
            'a model optimized by OpenVINO cannot be copied or saved: copy or save the '
            'plain model, and optimize that'
        )

    def _run(self, array: np.ndarray) -> list[np.ndarray]:
        shape = array.shape
        if shape not in self._seen:
            self._seen.add(shape)
            return self._infer(self._any, array)
        request = self._kept.pop(shape, None)
        if request is None:
            request = self._compile_for(shape)
            if not self._agree(array, request):
                request = self._any
        if len(self._kept) == KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[shape] = request
        return self._infer(request, array)

    def _infer(self, request: Any, array: np.ndarray) -> list[np.ndarray]:
        request.set_input_tensor(self._share(array))
        if request is self._any:
            request.infer()
            return [x.data.copy() for x in request.output_tensors]
        outs = [np.empty(x.shape, np.float32) for x in request.output_tensors]
        for i, out in enumerate(outs):
            request.set_output_tensor(i, self._share(out))
        request.infer()
        return outs

    def _share(self, array: np.ndarray) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)

    def _compile_for(self, shape: tuple[int, ...]) -> Any:
        small = shape[2] * shape[3] <= SMALL
        return self._compile(self._small if small else self._large, [*shape])

    def _agree(self, array: np.ndarray, request: Any) -> bool:
        """Whether a request for one shape gives what the one for any shape gives."""
        allowed = TOLERANCES[self._options['INFERENCE_PRECISION_HINT']]
        pairs = zip(
            self._infer(request, array), self._infer(self._any, array), strict=True
        )
        return all(
            np.allclose(
                a, b, rtol=0, atol=allowed * float(np.nanstd(b)), equal_nan=True
            )
            for a, b in pairs
        )

    def _convert(self, backbone: MetaFormer) -> Any:
        example = torch.zeros(1, backbone.in_channels, 256, 320)
        model = ChannelsLast(backbone) if self._channels_last else backbone
        with warnings.catch_warnings():
            # What it says would be fixed at tracing are the checks of images' shapes.
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            return self._openvino.convert_model(model, example_input=example)

    def _compile(self, model: Any, shape: list[int]) -> Any:
        model = model.clone()
        model.reshape(shape)
        compiled = self._openvino.compile_model(model, 'CPU', self._options)
        return compiled.create_infer_request()


def _norms_by_means(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if type(child) is MapLayerNorm:
            setattr(model, name, NormByMeans(child))
        else:
            _norms_by_means(child)
    return model
