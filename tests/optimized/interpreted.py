"""The Triton kernels against plain PyTorch, on a CPU in Triton's interpreter.

Run by `test_gpu_kernels.py` in a process of its own: TRITON_INTERPRET must be set
before Triton is imported, and PyTorch's compiler imports it too.
"""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor

import mmmeta  # noqa: F401  registers the families
from mmmeta.models import MetaFormer
from mmmeta.ops import gpu_kernels as kernels
from mmmeta.optimized.gpu_blocks import to_triton

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Neither sizes nor channels need to be multiples of a tile's.
SHAPES = [(2, 64, 9, 17), (1, 96, 1, 70), (2, 320, 5, 3), (1, 5, 33, 1)]
SHALLOW = dict(depths=(1, 2, 2, 1), dims=(32, 64, 128, 192))
POOLFORMER = dict(type='mmmeta.PoolFormer', arch=SHALLOW)
KINDS = {
    'PoolFormer': POOLFORMER,
    'PoolFormer-res_scale': dict(POOLFORMER, arch=dict(SHALLOW, res_scale=0.5)),
    'PoolFormerV2': dict(type='mmmeta.PoolFormerV2', arch=SHALLOW),
    'IdentityFormer': dict(type='mmmeta.IdentityFormer', arch=SHALLOW),
    'RandFormer': dict(type='mmmeta.RandFormer', arch=SHALLOW),  # two stages stay plain
}


def make_map(shape: tuple, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape) * 2 + 0.5
    return x.to(dtype, memory_format=torch.channels_last)


def check_map(found: Tensor, expected: Tensor) -> None:
    """Equal but for the last digit, which the order of two operations decides.

    And Triton's interpreter cuts float32 to bfloat16 where a GPU rounds.
    """
    assert found.dtype == expected.dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = max(2 * torch.finfo(found.dtype).eps, 1e-5)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def check_partials(partials: Tensor, written: Tensor) -> None:
    """Of the map that was written, as it was rounded."""
    assert partials.dtype == torch.float32
    x = written.double().flatten(1)
    expected = torch.stack([x.sum(1), x.square().sum(1)], 1)
    found = partials.double().sum(1)
    size = x.abs().sum(1)[:, None]  # sums of both signs cancel
    assert ((found - expected).abs() / torch.maximum(size, expected.abs())).max() < 1e-5


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
class TestKernels:
    def test_map_partials(self, shape, dtype):
        x = make_map(shape, dtype)
        partials = kernels.map_partials(x)
        check_partials(partials, x)
        check_partials(kernels.map_partials_reference(x), x)
        assert torch.equal(partials, kernels.map_partials(x))

    @pytest.mark.parametrize('scaled', [True, False])
    def test_pool_mix(self, shape, dtype, scaled):
        x, scale = make_map(shape, dtype), torch.randn(shape[:2])
        shortcut = torch.randn(shape[1]) if scaled else None
        before = x.clone()
        y, partials = kernels.pool_mix(x, scale, shortcut)
        check_map(y, kernels.pool_mix_reference(x, scale, shortcut)[0])
        check_partials(partials, y)
        assert torch.equal(x, before)

    @pytest.mark.parametrize('act', kernels.ACTS)
    def test_norm_act(self, shape, dtype, act):
        hidden, shift = make_map(shape, dtype), torch.randn(shape[:2])
        rstd = torch.rand(shape[0]) + 0.5
        expected = kernels.norm_act_reference(hidden, rstd, shift, act)
        found = kernels.norm_act_(hidden, rstd, shift, act)
        assert found is hidden
        check_map(found, expected)

    @pytest.mark.parametrize('inplace', [True, False])
    def test_add_branch(self, shape, dtype, inplace):
        batch, channels = shape[:2]
        bias, shortcut = torch.randn(2, channels)
        both = torch.randn(2, batch, channels).unbind()
        branch = make_map(shape, dtype)
        for parts in (
            (branch, bias, shortcut),
            (branch, None, None),
            (None, *both),
            (branch, both[0], shortcut),
        ):
            x = make_map(shape, dtype)
            expected, _ = kernels.add_branch_reference(x, *parts)
            y, partials = kernels.add_branch(x, *parts, inplace=inplace)
            assert (y is x) == inplace
            check_map(y, expected)
            check_partials(partials, y)


@pytest.mark.parametrize('programs', [1, 7, 2500])
def test_norm_factors(programs):
    partials = torch.randn(2, programs, 2)
    partials[..., 1].abs_().add_(1)
    weight, bias = torch.randn(2, 1100)
    args = partials, 3 * programs, 1e-5, weight, bias
    found = kernels.norm_factors(*args)
    assert [x.shape for x in found] == [(2,), (2, 1100), (2, 1100)]
    expected = kernels.norm_factors_reference(*args)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_norm_of_a_constant_map_is_finite():
    x = make_map((1, 8, 4, 4)).fill_(1e3)
    rstd, *_ = kernels.norm_factors(
        kernels.map_partials(x), x.numel(), 1e-5, torch.ones(8), torch.zeros(8)
    )
    assert 0 < rstd.item() <= 1e5**0.5 * 1.001


def test_star_stays_finite_in_float16():
    hidden = make_map((1, 4, 2, 2), torch.float16).fill_(300)
    kernels.norm_act_(hidden, torch.ones(1), torch.zeros(1, 4), 'star')
    assert (hidden == torch.finfo(torch.float16).max).all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r'channels_last memory, got \(2, 3, 4, 5\)'):
        kernels.map_partials(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"act must be one of .*'relu'"):
        kernels.norm_act_(make_map((1, 2, 3, 4)), torch.ones(1), torch.ones(1), 'relu')


def trained(config: dict) -> MetaFormer:
    """A backbone in which every parameter differs from its start."""
    model = MODELS.build(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        if 'layer_scale' in name:
            parameter.add_(0.3)
    return model


def error(found: tuple, expected: tuple) -> float:
    """The largest difference over the standard deviation of its map."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        float((a.float() - b).abs().max() / b.std())
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize('kind', KINDS)
def test_a_backbone_gives_what_the_plain_one_gives(kind):
    plain = trained(KINDS[kind])
    fast = to_triton(copy.deepcopy(plain), torch.float32)
    for shape in ((2, 3, 64, 96), (1, 3, 97, 131)):
        images = torch.randn(shape)
        before = images.clone()
        with torch.no_grad():
            assert error(fast(images), plain(images)) < 1e-4
        assert torch.equal(images, before)


@pytest.mark.parametrize('kind', ['PoolFormer', 'PoolFormerV2'])
def test_float16_is_as_near_as_the_plain_model_in_float16(kind):
    plain = trained(KINDS[kind])
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain(images)
        fast = to_triton(copy.deepcopy(plain), torch.float16)(images.half())
        low = copy.deepcopy(plain).half()(images.half())
    assert all(x.dtype == torch.float16 for x in fast)
    assert error(fast, expected) < 1.5 * error(low, expected)
