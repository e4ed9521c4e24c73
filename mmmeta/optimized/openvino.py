"""A backbone in OpenVINO's runtime, for inference on a CPU."""

import os
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmmeta.errors import UserError, require
from mmmeta.models.layers import take_means
from mmmeta.models.metaformer import MetaFormer
from mmmeta.ops.layout import strides_are_read

KEPT = 4  # models for one shape each; each has its own copy of the weights
# Image size in pixels up to which OpenVINO's norm of a whole map is accurate enough: it
# sums in a single pass and is off by 1e-4 standard deviations at 800x1216.
SMALL = 512 * 512
# Tolerances between models for one shape and for any shape, in standard deviations:
# OpenVINO 2026.4 is off by 1e-2 for attention over very few positions.
TOLERANCES = {'f32': 1e-3, 'bf16': 0.3}


class ChannelsLast(nn.Module):
    """A backbone with maps of shape (B, H, W, C), OpenVINO's internal layout."""

    def __init__(self, backbone: MetaFormer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.permute(0, 2, 3, 1) for x in self.backbone(images))


class OpenVinoBackbone:
    """Computes a backbone's outputs for images (B, 3, H, W) with compiled models.

    The first call with a shape uses a model for any shape. A model for one shape takes
    a quarter of a second to compile and makes calls up to a fifth faster, so it is
    compiled when the shape is repeated; the `KEPT` most recently used are kept.

    Each is compared with the model for any shape, which is used instead if they differ.

    OpenVINO has its own threads, and PyTorch's threads spin for a while after their
    work, so nothing here is computed by PyTorch.

    Args:
        backbone: The plain backbone, which is consumed.
        dtype: Dtype of the computation, `torch.float32` or `torch.bfloat16`.

    Raises:
        UserError: OpenVINO is not installed, or the process has only one core.
    """

    def __init__(self, backbone: MetaFormer, dtype: torch.dtype) -> None:
        if hasattr(os, 'sched_getaffinity') and len(os.sched_getaffinity(0)) == 1:
            # Compiling for several shapes would crash in OpenVINO (segfault).
            raise UserError(
                "backend 'openvino' needs two CPU cores, but this process may use only "
                "one: use backend='onednn', or allow more cores (taskset, cgroups)"
            )
        self._openvino = require('openvino', 'openvino', "optimize(backend='openvino')")
        # The default is bfloat16 if the CPU supports it.
        self._precision = 'bf16' if dtype == torch.bfloat16 else 'f32'
        self._options = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            'INFERENCE_PRECISION_HINT': self._precision,
        }
        self._channels_last = strides_are_read()
        self._small = self._convert(backbone.float())
        take_means(backbone)
        self._large = self._convert(backbone)
        channels = backbone.in_channels
        self._any = self._compile(self._large, [-1, channels, -1, -1])
        self._lock = threading.Lock()
        self._seen: set[tuple[int, ...]] = set()
        self._kept: dict[tuple[int, ...], Any] = {}  # most recently used last

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return float32 maps (B, C, H, W), each in its own memory."""
        array = np.ascontiguousarray(images.detach().float().numpy())
        with self._lock:  # a request can be used by one thread at a time
            outs = self._run(array)
        maps = [torch.from_numpy(out) for out in outs]
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps

    def __reduce__(self) -> tuple:
        raise UserError(
            'a model optimized by OpenVINO cannot be copied or saved: copy or save the '
            'plain model, then optimize it'
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
        """Whether the requests for one shape and for any shape agree."""
        allowed = TOLERANCES[self._precision]
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
            # It warns of values fixed by tracing; those are only shape checks.
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            return self._openvino.convert_model(model, example_input=example)

    def _compile(self, model: Any, shape: list[int]) -> Any:
        model = model.clone()
        model.reshape(shape)
        compiled = self._openvino.compile_model(model, 'CPU', self._options)
        return compiled.create_infer_request()
