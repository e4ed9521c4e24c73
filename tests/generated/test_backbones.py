"""Backbones of any row, for images of any shape, dtype and memory format."""

from typing import Any

import pytest
import torch
from generated.examples import ODD, generated
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from torch import Tensor

from mmmeta.errors import UserError
from mmmeta.models import FAMILIES

MIXERS = st.sampled_from(
    [
        dict(type='Pooling'),
        dict(type='Pooling', pool_size=5),
        dict(type='Identity'),
        dict(type='SepConv', kernel_size=3),
        dict(type='SepConv', expansion=1.5, bias=True),
        dict(type='Attention', head_dim=8),
        dict(type='Attention', head_dim=8, window_size=3),
        dict(type='RandomMixing', size=2),
        dict(type='RandomMixing', size=3, resize='resample'),
    ]
)
NORMS = st.sampled_from(
    [
        dict(type='GN'),
        dict(type='GN', eps=1e-3, bias=False),
        dict(type='LN'),
        dict(type='LN', bias=False),
        dict(type='BN'),
        None,
    ]
)
SCALES = st.sampled_from([None, 1, 0.5, 1e-5])


def staged(one: st.SearchStrategy) -> st.SearchStrategy:
    return one | st.lists(one, min_size=4, max_size=4)


ROWS = st.fixed_dictionaries(
    dict(
        depths=st.tuples(*[st.integers(1, 2)] * 4),
        dims=st.tuples(*[st.sampled_from([8, 16, 24, 40])] * 4),
        token_mixer=staged(MIXERS),  # the families' own want wider stages
    ),
    optional=dict(
        norm=staged(NORMS),
        act=staged(st.sampled_from(['GELU', 'ReLU', 'SiLU', 'StarReLU', 'Identity'])),
        mlp_ratio=staged(st.sampled_from([0.5, 1, 4])),
        mlp_bias=st.booleans(),
        layer_scale=staged(SCALES),
        res_scale=staged(SCALES),
        pos_embed=st.booleans(),
        out_norm=NORMS,
        init=st.sampled_from(['mlp', 'attention', 'all']),
    ),
)
STAGES = st.lists(st.integers(0, 3), min_size=1, unique=True).map(sorted)
BACKBONES = st.fixed_dictionaries(
    dict(type=st.sampled_from([f'mmmeta.{f.__name__}' for f in FAMILIES]), arch=ROWS),
    optional=dict(
        out_indices=STAGES,
        in_channels=st.sampled_from([1, 3, 4]),
        out_norm=st.booleans(),
        frozen_stages=st.integers(-1, 4),
        drop_path_rate=st.sampled_from([0, 0.3]),
        with_cp=st.booleans(),
        recompute_mlp=st.booleans(),
    ),
)
SIDES = st.integers(32, 70)
FORMATS = {
    'contiguous': lambda x: x,
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'every second': lambda x: x.repeat_interleave(2, 3)[..., ::2],
    'part of a batch': lambda x: torch.cat([x, x])[len(x) :],
    'planes last in part': lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    'a leaf': lambda x: x.clone().requires_grad_(),
}
# The relative error of all values together.
DTYPES = {torch.float64: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}


def sizes(cfg: dict, side: int) -> list[int]:
    """Return the sides of the maps: of a 7x7 window each 4, then 3x3 each 2.

    UniFormer's windows do not overlap.
    """
    if cfg['type'] == 'mmmeta.UniFormer':
        return [side // 4 // 2**i for i in range(4)]
    found = [(side + 4 - 7) // 4 + 1]
    for _ in range(3):
        found.append((found[-1] + 2 - 3) // 2 + 1)
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    expected = expected.double()
    return ((found.double() - expected).norm() / (expected.norm() + 1e-3)).item()


@generated
@given(BACKBONES, st.integers(0, 2), SIDES, SIDES, st.sampled_from([*FORMATS]))
def test_any_row_and_memory_format(cfg, count, height, width, form):
    plain = MODELS.build(dict(cfg, fast=False)).eval()
    model = MODELS.build(cfg).eval()
    model.load_state_dict(plain.state_dict())
    images = torch.randn(count, cfg.get('in_channels', 3), height, width)
    with torch.no_grad():
        expected = plain(images)
    stages = cfg.get('out_indices', (0, 1, 2, 3))
    assert [tuple(x.shape) for x in expected] == [
        (count, cfg['arch']['dims'][i], sizes(cfg, height)[i], sizes(cfg, width)[i])
        for i in stages
    ]
    given_images = FORMATS[form](images)
    torch.testing.assert_close(given_images.detach(), images, atol=0, rtol=0)
    with torch.set_grad_enabled(given_images.requires_grad):
        found = model(given_images)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert difference(a, b) < 1e-4, form
    if given_images.requires_grad and count:
        sum(a.square().mean() for a in found).backward()
        assert given_images.grad.isfinite().all()


@generated
@given(BACKBONES, SIDES, SIDES, st.sampled_from([*DTYPES]))
def test_any_dtype(cfg, height, width, dtype):
    plain = MODELS.build(dict(cfg, fast=False)).eval()
    model = MODELS.build(cfg).eval()
    model.load_state_dict(plain.state_dict())
    images = torch.randn(2, cfg.get('in_channels', 3), height, width)
    with torch.no_grad():
        expected = plain(images)
        found = model.to(dtype)(images.to(dtype))
        same = plain.to(dtype)(images.to(dtype))
    for a, b, c in zip(found, expected, same, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        assert difference(a, b) < DTYPES[dtype] + difference(c, b)
    with pytest.raises(UserError, match='expected images of the dtype'):
        model(images)


@st.composite
def spoilt(draw: Any) -> dict:
    """A config of which some value is odd."""
    cfg = draw(BACKBONES)
    cfg = {**cfg, 'arch': dict(cfg['arch'])}
    names = ['arch', 'out_indices', 'in_channels', 'out_norm', 'frozen_stages']
    names += ['drop_path_rate', 'with_cp', 'recompute_mlp', 'token_mixer', 'norm_cfg']
    names += ['fork_feat', 'fork_last3', 'fast', 'norm_eval', 'init_cfg', 'unknown']
    fields = ['depths', 'dims', 'token_mixer', 'norm', 'act', 'mlp_ratio', 'mlp_bias']
    fields += ['layer_scale', 'res_scale', 'downsample', 'pos_embed', 'out_norm']
    fields += ['final_norm', 'mlp_head', 'init', 'unknown']
    if draw(st.booleans()):
        cfg[draw(st.sampled_from(names))] = draw(st.sampled_from(ODD))
    else:
        where = draw(st.sampled_from(fields))
        odd = draw(st.sampled_from(ODD))
        # In the place of one stage's value, or of all.
        value = cfg['arch'].get(where)
        if isinstance(value, (list, tuple)) and draw(st.booleans()):
            odd = [odd, *value[1:]]
        cfg['arch'][where] = odd
    return cfg


@generated
@given(spoilt(), SIDES)
def test_odd_values_are_refused_or_used(cfg, side):
    try:
        model = MODELS.build(cfg)
    except UserError as error:
        assert isinstance(error, ValueError) and '\n' not in str(error)
        return
    except TypeError as error:  # Python's own
        assert "unexpected keyword argument 'unknown'" in str(error)
        return
    maps = model.eval()(torch.randn(1, model.in_channels, side, side))
    assert all(x.isfinite().all() for x in maps)
    assert len(maps) == (len(model.out_indices) if model.fork_feat else 1)


@generated
@given(
    st.lists(st.integers(0, 70), max_size=5), st.sampled_from([*DTYPES, torch.int64])
)
def test_shapes_that_are_no_images_are_refused(backbone, shape, dtype):
    ok = len(shape) == 4 and shape[1] == 3 and min(shape[2:]) >= 32
    assert not (ok and dtype == torch.float32)
    with pytest.raises(UserError, match='expected images') as error:
        backbone(torch.zeros([], dtype=dtype).expand(shape))  # takes no memory
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def backbone():
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    return MODELS.build(dict(type='mmmeta.PoolFormer', arch=arch)).eval()
