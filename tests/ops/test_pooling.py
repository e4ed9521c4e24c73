"""Pooling of large maps by a convolution, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmeta.ops import pooling
from mmmeta.ops.pooling import mix_pooled, pool_apart, pool_apart_transposed

# (B, C, H, W): around the size from which a convolution pools, and beyond it.
SHAPES = [(1, 64, 64, 127), (1, 64, 64, 128), (2, 96, 83, 91), (1, 512, 2, 1031)]
THIN = [(1, 1024, 1, 1024), (1, 1024, 1024, 1)]


def expected(x: Tensor, size: int = 3) -> Tensor:
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('shape', [*SHAPES, *THIN], ids=str)
@pytest.mark.parametrize('size', [3, 5])
def test_pooling_and_its_transpose(shape, layout, size):
    x = torch.randn(shape).add_(3).contiguous(memory_format=layout).requires_grad_()
    apart = expected(x, size) - x
    torch.testing.assert_close(pool_apart(x.detach(), size), apart)
    grad = torch.randn_like(x)
    (transposed,) = torch.autograd.grad(apart, x, grad)
    torch.testing.assert_close(pool_apart_transposed(grad, size), transposed)


@pytest.mark.parametrize('with_res_scale', [False, True])
@pytest.mark.parametrize('shape', [*SHAPES, *THIN], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_mixture(shape, dtype, with_res_scale):
    x = torch.randn(shape).add_(3).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    before = x.clone()
    scale = torch.rand(shape[0], shape[1], 1, 1)
    res_scale = torch.rand(shape[1], 1, 1).to(dtype) if with_res_scale else None
    mixed = mix_pooled(x, scale, 3, res_scale)
    kept = 1 if res_scale is None else res_scale.float()
    wide = x.float()
    exact = kept * wide + scale * (expected(wide) - wide)
    step = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(mixed.float(), exact, rtol=step, atol=4 * step)
    assert torch.equal(x, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_a_mean_stays_where_it_is_in_other_dtypes(dtype):
    x = torch.full((1, 64, 128, 130), 100.0, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    assert not pool_apart(x, 3).any()
    scale = torch.rand(1, 64, 1, 1)
    mixed = mix_pooled(x, scale, 3)
    assert torch.equal(mixed[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])
    torch.testing.assert_close(mixed, x, rtol=2 * torch.finfo(dtype).eps, atol=0)


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
        pool_apart(x, 3)
    assert taken == SHAPES[1:]
