"""A backbone in OpenVINO's runtime, for inference on a CPU."""

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.errors import require
from mmmeta.models.layers import MapLayerNorm
from mmmeta.models.metaformer import MetaFormer

KEPT = 4  # models for one shape each; each has its own copy of the weights
# Pixels of an image up to which OpenVINO's norm of a whole map is exact enough: it sums
# the map in one go, and is off by 1e-4 of the deviation at 800x1216.
SMALL = 512 * 512


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


class OpenVinoBackbone:
    """Maps images (B, 3, H, W) to what the backbone does, by compiled models.

    The first call of a shape is done by a model for any shape. One for this shape alone
    takes a quarter of a second to compile and up to a fifth off each call, so it is
    made when the shape comes again; the last `KEPT` that were used stay.

    Args:
        backbone: The plain backbone, which is used up.
        dtype: What is computed in, `torch.float32` or `torch.bfloat16`.

    Raises:
        UserError: OpenVINO is not installed.
    """

    def __init__(self, backbone: MetaFormer, dtype: torch.dtype) -> None:
        self._openvino = require('openvino', 'openvino', "optimize(backend='openvino')")
        self._options = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            # The default is bfloat16 where the processor has it.
            'INFERENCE_PRECISION_HINT': 'bf16' if dtype == torch.bfloat16 else 'f32',
        }
        self._small = self._convert(backbone.float())
        self._large = self._convert(_norms_by_means(backbone))
        channels = backbone.in_channels
        self._any = self._compile(self._large, [-1, channels, -1, -1])
        self._calls: Counter[torch.Size] = Counter()
        self._kept: dict[torch.Size, Any] = {}  # the last used comes last

    def __call__(self, images: Tensor) -> list[Tensor]:
        compiled = self._for_shape(images.shape)
        outs = compiled(images.float().numpy()).values()
        return [torch.from_numpy(x) for x in outs]

    def _for_shape(self, shape: torch.Size) -> Any:
        self._calls[shape] += 1
        if self._calls[shape] == 1:
            return self._any
        compiled = self._kept.pop(shape, None)
        if compiled is None:
            small = shape[2] * shape[3] <= SMALL
            model = self._small if small else self._large
            compiled = self._compile(model, [*shape])
        if len(self._kept) == KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[shape] = compiled
        return compiled

    def _convert(self, backbone: MetaFormer) -> Any:
        example = torch.zeros(1, backbone.in_channels, 256, 320)
        with warnings.catch_warnings():
            # What it says would be fixed at tracing are the checks of images' shapes.
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            return self._openvino.convert_model(backbone, example_input=example)

    def _compile(self, model: Any, shape: list[int]) -> Any:
        model = model.clone()
        model.reshape(shape)
        return self._openvino.compile_model(model, 'CPU', self._options)


def _norms_by_means(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if type(child) is MapLayerNorm:
            setattr(model, name, NormByMeans(child))
        else:
            _norms_by_means(child)
    return model
