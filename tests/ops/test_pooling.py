"""Pooling of large maps by a convolution, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmeta.ops import pooling
from mmmeta.ops.pooling import average_pool, mix_pooled

# (B, C, H, W): around the size from which a convolution pools, and beyond it.
SHAPES = [(1, 64, 127, 129), (1, 64, 128, 128), (2, 96, 83, 91), (1, 512, 2, 1031)]
THIN = [(1, 1024, 1, 1024), (1, 1024, 1024, 1)]


def expected(x: Tensor, size: int = 3) -> Tensor:
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('shape', [*SHAPES, *THIN], ids=str)
def test_average(shape, layout):
    x = torch.randn(shape).add_(3).contiguous(memory_format=layout)
    torch.testing.assert_close(average_pool(x, 3), expected(x))
    torch.testing.assert_close(average_pool(x, 5), expected(x, 5))


@pytest.mark.parametrize('with_res_scale', [False, True])
@pytest.mark.parametrize('shape', [*SHAPES, *THIN], ids=str)
def test_mixture(shape, with_res_scale):
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    scale = torch.rand(shape[0], shape[1], 1, 1)
    res_scale = torch.rand(shape[1], 1, 1) if with_res_scale else None
    mixed = mix_pooled(x, scale, 3, res_scale)
    kept = 1 if res_scale is None else res_scale
    torch.testing.assert_close(mixed, kept * x + scale * (expected(x) - x))
    assert torch.equal(x, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_a_mean_stays_where_it_is_in_other_dtypes(dtype):
    x = torch.full((1, 64, 128, 130), 100.0, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(average_pool(x, 3), x)


def test_the_convolution_is_taken(monkeypatch):
    taken = []
    convolve = pooling.onednn.depthwise
    monkeypatch.setattr(
        pooling.onednn,
        'depthwise',
        lambda x, weight: taken.append(x.shape) or convolve(x, weight),
    )
    for shape in (*SHAPES, *THIN):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        average_pool(x, 3)
    assert taken == [shape for shape in SHAPES if torch.Size(shape).numel() >= 2**20]
