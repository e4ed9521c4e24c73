"""Wrong arguments and images: one line, of the documented type, at the right time."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from models.changes import worst
from torch import Tensor, nn

import mmmeta
from mmmeta.errors import InvalidTypeError, InvalidValueError
from mmmeta.models import FAMILIES, MetaFormer
from mmmeta.models.neck import MetaFormerNeck

ARCH = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 64))
POOLING = dict(type='Pooling')
NAN, INF = math.nan, math.inf


def build(family: str = 'PoolFormer', arch: dict | None = None, **kwargs) -> MetaFormer:
    """A small member of a family; `arch` has fields that replace those of ARCH."""
    arch = {**ARCH, **(arch or {})}
    return MODELS.build(dict(type=f'mmmeta.{family}', arch=arch, **kwargs))


def refused(error: type, wanted: str, **kwargs) -> None:
    """Building raises the error, which is a `ValueError`, of one line with `wanted`."""
    with pytest.raises(ValueError) as caught:
        build(**kwargs).init_weights()
    assert type(caught.value) is error, repr(caught.value)
    assert wanted in str(caught.value) and '\n' not in str(caught.value)
    assert isinstance(caught.value, TypeError) == (error is InvalidTypeError)


def mixer(kind: str, **kwargs) -> dict:
    return dict(token_mixer=dict(type=kind, **kwargs))


MIXER = "token_mixer must be a dict such as dict(type='Pooling', pool_size=3)"
NORM = "a norm must be a dict such as dict(type='LN', eps=1e-6)"
WRONG_TYPES = [
    *[
        (dict(token_mixer=value), MIXER)
        for value in ('Pooling', 5, True, {}, dict(type=None), ['Pooling'] * 4)
    ],
    (dict(token_mixer=[[], POOLING, POOLING, POOLING]), MIXER),
    (dict(token_mixer=[[[POOLING]]] * 4), MIXER),
    (dict(token_mixer=[POOLING, 5, POOLING, POOLING]), MIXER),
    (mixer('Pooling', size=3), "Pooling takes no argument 'size'; choose from dim, po"),
    *[
        (mixer('Pooling', pool_size=value), 'pool_size must be an odd integer, got')
        for value in ('3', 3.0, None, (3, 3), True)
    ],
    *[
        (mixer('SepConv', kernel_size=value), 'kernel_size must be an odd integer')
        for value in ('7', 7.0, (3, 5))
    ],
    (mixer('SepConv', expansion='2'), "expansion must be a number, got '2'"),
    (mixer('SepConv', bias='False'), "bias must be True or False, got 'False'"),
    *[
        (mixer('Attention', head_dim=value), 'head_dim must be an integer, positive')
        for value in ('8', 8.0, True, None)
    ],
    *[
        (mixer('Attention', window_size=value), 'window_size must be an integer')
        for value in ('7', 2.5, True, (7, 7))
    ],
    (mixer('RandomMixing', size='7'), 'size must be an integer, positive'),
    *[(dict(norm_cfg=value), NORM) for value in ('BN', 5, True, ['BN'] * 4)],
    (dict(norm_cfg=dict(type='GN', num_groups=4)), "GN takes no argument 'num_groups'"),
    (dict(norm_cfg=dict(type='BN', eps='a')), "eps must be a number, got 'a'"),
    (dict(norm_cfg=dict(type='LN', bias='no')), 'bias must be True or False'),
    (dict(arch=dict(out_norm='GN')), NORM),
    *[
        (dict(arch=dict(mlp_ratio=value)), 'mlp_ratio must be a number')
        for value in ('4', None, True)
    ],
    *[
        (dict(arch={name: value}), f'{name} must be a number')
        for name in ('layer_scale', 'res_scale')
        for value in ('1e-5', True, [None, None, 'x', 1])
    ],
    *[
        (dict(arch={name: 'no'}), f'{name} must be True or False')
        for name in ('pos_embed', 'mlp_bias', 'mlp_head')
    ],
    (dict(arch=dict(downsample=5)), 'downsample must be a dict such as dict(kernel_s'),
    (dict(arch=dict(downsample=dict(kernel_size=3))), 'downsample lacks stride'),
    (
        dict(arch=dict(downsample=dict(kernel_size='3', stride=2))),
        "kernel_size must be an integer, positive; got '3'",
    ),
    (
        dict(arch=dict(downsample=dict(kernel_size=3, stride=2, groups=2))),
        "Downsample takes no argument 'groups'; choose from kernel_size, stride",
    ),
    *[
        (dict(drop_path_rate=value), 'drop_path_rate must be a number')
        for value in ('0.1', None, True, [0.1])
    ],
    *[
        (dict(frozen_stages=value), 'frozen_stages must be an integer, -1 to 4; got')
        for value in (True, 1.0, '1', None)
    ],
    *[
        (dict(in_channels=value), 'in_channels must be an integer, positive; got')
        for value in (True, 3.0, '3')
    ],
    *[
        (dict(with_cp=value), 'with_cp must be True, False or a list of 4 counts')
        for value in (1, 'yes', None)
    ],
    *[
        (dict(with_cp=[value] * 4), 'each count of with_cp must be an integer')
        for value in (True, 1.0, '1')
    ],
    *[
        ({name: 'False'}, f"{name} must be True or False, got 'False'")
        for name in ('fork_feat', 'fork_last3', 'out_norm', 'norm_eval', 'fast')
    ],
    *[
        (dict(init_cfg=value), "init_cfg must be a dict such as dict(type='Pretrained'")
        for value in ('a.pth', 5, dict(checkpoint='a.pth'), [POOLING, 'a.pth'])
    ],
    *[
        (dict(init_cfg=dict(type='Pretrained', **options)), wanted)
        for options, wanted in (
            ({}, 'needs checkpoint=..., a path, a URL or mmmeta://NAME; got None'),
            (dict(checkpoint=5), 'needs checkpoint=..., a path, a URL'),
            (dict(checkpoint='a', key='b'), "no argument 'key'; choose from checkpoi"),
        )
    ],
    (dict(family='UniFormer', attention='window', window_size='7'), 'window_size must'),
]
WRONG_VALUES = [
    (mixer('Attention', head_dim=0), 'head_dim must be positive, got 0'),
    (mixer('Attention', head_dim=-8), 'head_dim must be positive, got -8'),
    (mixer('Attention', head_dim=24), 'head_dim 24 does not divide dim 32'),
    (mixer('RandomMixing', size=0), 'size must be positive, got 0'),
    *[
        (mixer('SepConv', kernel_size=value), 'kernel_size must be odd and positive')
        for value in (4, 0, -3)
    ],
    *[
        (mixer('SepConv', expansion=value), wanted)
        for value, wanted in (
            (0, 'expansion must give 1 to 1048576 hidden channels; 0 times 32 is 0'),
            (-1, 'expansion must give 1 to'),
            (0.01, 'expansion must give 1 to'),
            (NAN, 'expansion must be finite'),
        )
    ],
    (mixer('SepConv', act=['GELU']), "unknown activation ['GELU']; choose from"),
    *[
        (dict(arch=dict(mlp_ratio=value)), wanted)
        for value, wanted in (
            (0, 'mlp_ratio must give 1 to 1048576 hidden channels; 0 times 32 is 0'),
            (-1, 'mlp_ratio must give'),
            (0.01, 'mlp_ratio must give'),
            (1e12, 'mlp_ratio must give'),
            (INF, 'mlp_ratio must be finite, got inf'),
            ([4, 4, 4, 0], 'mlp_ratio must give'),
        )
    ],
    (dict(arch=dict(act=['GELU'] * 3)), 'act needs one value or a list of 4'),
    (dict(arch=dict(act='gelu')), "unknown activation 'gelu'; choose from ['GELU'"),
    (dict(arch=dict(layer_scale=NAN)), 'layer_scale must be finite, got nan'),
    (dict(arch=dict(depths=(0, 1, 1, 1))), 'depths must be 4 positive integers'),
    (dict(arch=dict(depths=(True,) * 4)), 'depths must be 4 positive integers'),
    (dict(arch=dict(dims=(32.0,) * 4)), 'dims must be 4 positive integers'),
    (dict(arch=dict(downsample=dict(kernel_size=3, stride=0))), 'stride must be posit'),
    (
        dict(arch=dict(dims=(1, 8, 8, 8), downsample=dict(type='ConvStem'))),
        "ConvStem's out_dim must be at least 2, got 1",
    ),
    (dict(norm_cfg=dict(type=['BN'])), "unknown norm type ['BN']"),
    (dict(norm_cfg=dict(type='LN', eps=-1)), 'eps must be finite and at least 0, got'),
    (dict(norm_cfg=[dict(type='BN')] * 3), 'norm needs one value or a list of 4'),
    *[
        (dict(drop_path_rate=value), 'drop_path_rate must be')
        for value in (NAN, 1, -0.1)
    ],
    (dict(in_channels=0), 'in_channels must be positive, got 0'),
    (dict(with_cp=[-1, 0, 0, 0]), 'each count of with_cp must be at least 0, got -1'),
    *[
        (dict(out_indices=value), 'out_indices must be ascending stage indices from 0')
        for value in ((0, 0), (-1, 0), (1.0,), '0', 3, (True,), (-5,))
    ],
    (
        dict(fork_feat=False, out_indices=(1, 2)),
        'fork_feat=False returns the last map alone, and out_indices=(1, 2) asks for',
    ),
    (dict(fork_feat=False, out_indices='x'), 'out_indices must be ascending stage'),
    (dict(family='UniFormer', attention=['window']), "unknown attention ['window']"),
]


@pytest.mark.parametrize(('kwargs', 'wanted'), WRONG_TYPES)
def test_wrong_types(kwargs, wanted):
    refused(InvalidTypeError, wanted, **kwargs)


@pytest.mark.parametrize(('kwargs', 'wanted'), WRONG_VALUES)
def test_wrong_values(kwargs, wanted):
    refused(InvalidValueError, wanted, **kwargs)


def test_hidden_features_of_a_neck():
    with pytest.raises(InvalidValueError, match='ratio must give 1 to'):
        MetaFormerNeck(8, ratio=0)


def test_arguments_that_say_the_same_otherwise():
    """Integers for scales, counts over the depth, mmcv's `requires_grad`, 1 and 0."""
    model = build(
        arch=dict(layer_scale=1, res_scale=(None, 1, 0.5, 2), mlp_ratio=2.0),
        norm_cfg=dict(type='BN', requires_grad=False),
        with_cp=[2, 0, 8, 1],
        out_indices=[0, -3, -2, -1],
        out_norm=1,
    )
    block = model.stages[3].blocks[0]
    assert block.layer_scale1.tolist() == [1.0] * 64
    assert block.res_scale2.tolist() == [2.0] * 64
    assert not any(p.requires_grad for p in block.norm1.parameters())
    assert all(p.requires_grad for p in block.mlp.parameters())
    assert model.out_indices == (0, 1, 2, 3)
    plain = build(
        arch=dict(layer_scale=1, res_scale=(None, 1, 0.5, 2), mlp_ratio=2.0),
        norm_cfg=dict(type='BN'),
    )
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert worst(model(images), plain(images)) < 1e-6
    assert build(fork_feat=False, out_indices=(3,)).out_indices == (3,)


# -- images -----------------------------------------------------------------------

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TENSOR = r'expected images as a tensor of shape \(B, 3, H, W\), got '
WRONG_IMAGES = {
    'list': ([X[0], X[1]], InvalidTypeError, f'{TENSOR}list'),
    'dict': (dict(inputs=X), InvalidTypeError, f'{TENSOR}dict'),
    'None': (None, InvalidTypeError, f'{TENSOR}NoneType'),
    'numpy': (X.numpy(), InvalidTypeError, f'{TENSOR}ndarray'),
    'uint8': (X.to(torch.uint8), InvalidTypeError, 'floating-point dtype, got torch.u'),
    'int64': (X.long(), InvalidTypeError, 'floating-point dtype, got torch.int64'),
    'complex': (X + 1j, InvalidTypeError, 'floating-point dtype, got torch.complex64'),
    'sparse': (X.to_sparse(), InvalidTypeError, 'a dense tensor .* a sparse_coo one'),
    '3 axes': (X[0], InvalidValueError, r'\(B, 3, H, W\), got \(3, 64, 64\)'),
    'channels last': (
        X.permute(0, 2, 3, 1),
        InvalidValueError,
        r'got \(2, 64, 64, 3\); set the number of channels with',
    ),
    'no pixel': (X[:, :, :0], InvalidValueError, 'at least 32x32 pixels, got 0x64'),
    'one pixel': (X[..., :1, :1], InvalidValueError, 'at least 32x32 pixels, got 1x1'),
    '31 pixels': (X[..., :31], InvalidValueError, 'at least 32x32 pixels, got 64x31'),
}


@pytest.fixture(scope='module')
def models() -> dict[str, nn.Module]:
    plain = build(fast=False).eval()
    fast = build().eval()
    return dict(plain=plain, fast=fast, optimized=mmmeta.optimize(fast))


@pytest.mark.parametrize('kind', ['plain', 'fast', 'optimized'])
@pytest.mark.parametrize('name', WRONG_IMAGES)
def test_wrong_images(models, kind, name):
    images, error, wanted = WRONG_IMAGES[name]
    with torch.no_grad(), pytest.raises(error, match=wanted) as caught:
        models[kind](images)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_another_dtype(models, dtype):
    """An optimized model converts them; the others say so, but within autocast."""
    wanted = f'of the dtype of the weights, torch.float32, got {dtype}: convert either'
    for kind in ('plain', 'fast'):
        with torch.no_grad(), pytest.raises(InvalidTypeError, match=wanted):
            models[kind](X.to(dtype))
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            if dtype != torch.float64:  # which autocast leaves alone
                assert worst(models[kind](X.to(dtype)), models[kind](X)) < 0.2
                continue
            with pytest.raises(InvalidTypeError, match=wanted):
                models[kind](X.to(dtype))
    assert models['optimized'](X.to(dtype))[0].dtype == dtype
    low = build().eval().to(dtype)
    with torch.no_grad():
        assert low(X.to(dtype))[0].dtype == dtype


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_no_images_give_no_maps_and_leave_the_statistics(family):
    model = build(family).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    expected = [(0, *x.shape[1:]) for x in model.eval()(X)]
    for training in (False, True):
        maps = model.train(training)(X[:0])
        assert [tuple(x.shape) for x in maps] == expected
    sum(x.sum() for x in maps).backward()
    assert all(
        torch.equal(value, before[name])
        for name, value in model.named_buffers()
        if not name.endswith('num_batches_tracked')
    )
    with torch.no_grad():
        assert [tuple(x.shape) for x in model.eval()(X[:0])] == expected


# -- what a mixer returns ---------------------------------------------------------

WRONG_MAPS = {
    'one channel': (lambda x: x[:, :1], InvalidValueError, r', got \(2, 1, 16, 16\)'),
    'one value a channel': (
        lambda x: x.mean((2, 3), keepdim=True),
        InvalidValueError,
        r'must return the shape of its input, \(2, 32, 16, 16\), got \(2, 32, 1, 1\)',
    ),
    'a row': (lambda x: x[0, 0, 0], InvalidValueError, r', got \(16,\)'),
    'a crop': (lambda x: x[..., 1:], InvalidValueError, r', got \(2, 32, 16, 15\)'),
    'float64': (Tensor.double, InvalidTypeError, 'dtype of its input, torch.float32, '),
    'int64': (Tensor.long, InvalidTypeError, 'torch.float32, got torch.int64'),
    'None': (lambda x: None, InvalidTypeError, 'must return one tensor .* got NoneTyp'),
    'a tuple': (lambda x: (x,), InvalidTypeError, 'must return one tensor .* got tupl'),
}


class Wrong(nn.Module):
    """A mixer that returns what it is told to."""

    returned = staticmethod(lambda x: x)

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return type(self).returned(x)


@pytest.mark.parametrize('how', ['fast', 'training', 'recompute_mlp', 'with_cp'])
@pytest.mark.parametrize('name', WRONG_MAPS)
def test_mixers_that_return_something_else(name, how, monkeypatch):
    returned, error, wanted = WRONG_MAPS[name]
    monkeypatch.setattr(Wrong, 'returned', staticmethod(returned))
    options = {how: True} if how != 'training' else dict(drop_path_rate=0.5)
    model = build(token_mixer=dict(type=Wrong), **options).train(how != 'fast')
    wanted = f'the token mixer Wrong.*{wanted}'
    with torch.set_grad_enabled(how != 'fast'), pytest.raises(error, match=wanted):
        model(X)
    with pytest.raises(error, match='the token mixer Wrong must return'):
        mmmeta.optimize(model)


def test_a_mixer_may_return_less_precision(monkeypatch):
    """As one does that runs a kernel for float16 alone."""
    plain = build(token_mixer=dict(type='Identity'), arch=dict(layer_scale=0.5)).eval()
    model = build(token_mixer=dict(type=Wrong), arch=dict(layer_scale=0.5)).eval()
    model.load_state_dict(plain.state_dict())
    monkeypatch.setattr(Wrong, 'returned', staticmethod(Tensor.half))
    found = model(X)
    assert found[0].dtype == torch.float32 and worst(found, plain(X)) < 1e-2
    with torch.autocast('cpu', torch.bfloat16):
        monkeypatch.setattr(Wrong, 'returned', staticmethod(Tensor.float))
        assert worst(model(X), plain(X)) < 1e-6


def test_numpy_numbers_are_numbers():
    model = build(drop_path_rate=np.float32(0.25), frozen_stages=np.int64(1))
    assert model.frozen_stages == 1
    assert model.stages[3].blocks[0].drop_path.drop_prob == 0.25
