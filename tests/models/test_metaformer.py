"""The backbone's contract, for every arch of every family."""

import copy
import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from undrawn import nothing_drawn

from mmmeta.models import FAMILIES, MetaFormer
from mmmeta.registry import TOKEN_MIXERS

ARCHS = [(f.__name__, size) for f in FAMILIES for size in f.archs]
SMALLEST = [(f.__name__, next(iter(f.archs))) for f in FAMILIES]
SIZES = [(75, 101), (64, 96), (33, 70)]


def build(family: str, arch, **kwargs) -> MetaFormer:
    return MODELS.build(dict(type=f'mmmeta.{family}', arch=arch, **kwargs))


def small(family: str = 'PoolFormer', **kwargs) -> MetaFormer:
    """A member of a family with one or two blocks per stage, for quick tests."""
    arch = dict(depths=(2, 1, 2, 1), dims=(32, 64, 64, 128))
    return build(family, arch, **kwargs)


def test_sweeps_cover_every_arch():
    assert ('PoolFormer', 's12') in ARCHS
    assert len(ARCHS) == len(set(ARCHS)) == len(MetaFormer.archs)


def reduced(size: int, cfg: dict) -> int:
    """Return the output size of a downsampling, in positions."""
    if cfg.get('type') == 'ConvStem':  # two of 3x3 with stride 2, padding 1
        return ((size - 1) // 2) // 2 + 1
    padding = cfg.get('padding', 0)
    return (size + 2 * padding - cfg['kernel_size']) // cfg['stride'] + 1


@pytest.mark.parametrize(('family', 'arch'), ARCHS)
def test_shapes_and_strides(family, arch):
    """The smallest of each family really computes; the others only infer shapes."""
    if (family, arch) in SMALLEST:
        device, sizes, model = 'cpu', SIZES, build(family, arch)
    else:
        device, sizes = 'meta', SIZES[:1]
        with torch.device(device), nothing_drawn():
            model = build(family, arch)
    model.eval()
    for size in sizes:
        with torch.no_grad():
            outs = model(torch.randn(1, 3, *size, device=device))
        assert isinstance(outs, tuple)
        for i, out in enumerate(outs):
            size = [reduced(s, model.arch.downsample[i]) for s in size]
            assert out.shape == (1, model.arch.dims[i], *size)
            assert math.prod(size) >= 1


@pytest.mark.parametrize(('family', 'arch'), SMALLEST)
@pytest.mark.parametrize('with_cp', [False, True])
def test_every_parameter_gets_a_gradient(family, arch, with_cp):
    model = build(family, arch, with_cp=with_cp).train()
    sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64))).backward()
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert without == []


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_checkpointing_equals_plain(family):
    plain = small(family, drop_path_rate=0.2).train()
    partial = small(family, drop_path_rate=0.2, with_cp=(0, 0, 2, 0)).train()
    full = small(family, drop_path_rate=0.2, with_cp=True).train()
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for model in (plain, partial, full):
        model.load_state_dict(plain.state_dict())
        torch.manual_seed(1)
        sum(out.square().mean() for out in model(images)).backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_checkpointing_saves_memory():
    def saved_bytes(model):
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(1, 3, 64, 64))
        return total

    plain, cp = small().train(), small(with_cp=True).train()
    assert saved_bytes(cp) < 0.3 * saved_bytes(plain)


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
@pytest.mark.parametrize('frozen', range(-1, 5))
def test_freezing_holds_after_train(family, frozen):
    model = small(family, frozen_stages=frozen, drop_path_rate=0.1)
    for _ in range(2):
        model.train(False)
        assert model.train() is model
        for name, parameter in model.named_parameters():
            stem = name.startswith('stages.0.downsample') and frozen >= 0
            in_stage = name.startswith('stages.') and int(name.split('.')[1]) < frozen
            trainable = 'random_matrix' not in name
            assert parameter.requires_grad == (trainable and not (stem or in_stage)), (
                name
            )
        for i, stage in enumerate(model.stages):
            assert stage.training == (i >= frozen)
        assert model.training
    before = copy.deepcopy(model.state_dict())
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=0.1)
    sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        frozen_name = (name.startswith('stages.0.downsample') and frozen >= 0) or (
            name.startswith('stages.') and int(name.split('.')[1]) < frozen
        )
        if frozen_name:
            assert torch.equal(value, before[name]), name
    # Also in evaluation mode, where the norm of older PyTorch would crash the process.
    model.zero_grad()
    maps = model.eval()(torch.randn(2, 3, 64, 96))
    sum(out.square().mean() for out in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in params)
    moved = [n for n, v in model.state_dict().items() if not v.equal(before[n])]
    assert moved


def test_norm_eval_keeps_batch_norms_in_evaluation_mode():
    model = small(norm_cfg=dict(type='BN'), norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 12
    assert not any(m.training for m in norms)
    plain = small(norm_cfg=dict(type='BN')).train()
    assert all(m.training for m in plain.modules() if isinstance(m, nn.BatchNorm2d))


def test_eval_returns_the_module():
    model = small(frozen_stages=2)
    assert model.eval() is model
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (0, 1, 2), (-1,), (-2, -1)])
def test_out_indices_have_their_norms_and_no_unused_parameters(out_indices):
    model = small(out_indices=out_indices).train()
    indices = [i % 4 for i in out_indices]
    outs = model(torch.randn(2, 3, 64, 64))
    assert [o.shape[1] for o in outs] == [model.arch.dims[i] for i in indices]
    norms = {name for name, _ in model.named_children()} - {'stages'}
    assert norms == {f'norm{i}' for i in indices}
    sum(o.square().mean() for o in outs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_outputs_are_normalized_unless_asked_otherwise():
    model, raw = small().eval(), small(out_norm=False).eval()
    raw.load_state_dict(model.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    for i, (out, map_) in enumerate(zip(model(images), raw(images), strict=True)):
        expected = nn.functional.group_norm(map_, 1)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
        assert not [n for n, _ in raw.named_parameters() if n.startswith(f'norm{i}')]


@pytest.mark.parametrize(
    ('argument', 'variable', 'without_norm'),
    [
        (None, None, False),
        (None, '1', True),
        (None, 'true', True),
        (None, '0', False),
        (None, '', False),
        (True, '0', True),
        (False, '1', False),
    ],
)
def test_fork_last3(monkeypatch, argument, variable, without_norm):
    if variable is None:
        monkeypatch.delenv('FORK_LAST3', raising=False)
    else:
        monkeypatch.setenv('FORK_LAST3', variable)
    model = small(fork_last3=argument)
    assert (sum(p.numel() for p in model.norm0.parameters()) == 0) == without_norm
    assert all(len(list(getattr(model, f'norm{i}').parameters())) for i in (1, 2, 3))
    assert len(model(torch.randn(1, 3, 64, 64))) == 4


def test_fork_last3_leaves_other_first_outputs_alone():
    model = small(fork_last3=True, out_indices=(1, 2, 3))
    assert len(list(model.norm1.parameters())) == 2


def test_fork_last3_variable_must_be_clear(monkeypatch):
    monkeypatch.setenv('FORK_LAST3', 'maybe')
    with pytest.raises(ValueError, match='FORK_LAST3 must be 1 or 0, got maybe'):
        small()


def test_without_fork_feat_the_last_map_is_returned():
    model = small(fork_feat=False).eval()
    (out,) = model(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 128, 2, 2)
    assert 'norm.weight' in model.state_dict()
    assert not any(k.startswith('norm0') for k in model.state_dict())


def test_drop_path_grows_linearly():
    model = small(drop_path_rate=0.3)
    rates = [
        getattr(b.drop_path, 'drop_prob', 0.0) for s in model.stages for b in s.blocks
    ]
    assert rates == pytest.approx([0, 0.06, 0.12, 0.18, 0.24, 0.3])


@pytest.mark.parametrize(
    ('arch', 'scale'),
    [('s12', 1e-5), ('s24', 1e-5), ('s36', 1e-6), ('m36', 1e-6), ('m48', 1e-6)],
)
def test_poolformer_layer_scale(arch, scale, undrawn):
    model = build('PoolFormer', arch)
    values = [p for n, p in model.named_parameters() if 'layer_scale' in n]
    assert len(values) == 2 * sum(model.arch.depths)
    for value in values:
        torch.testing.assert_close(value.data, torch.full_like(value, scale))


def test_poolformer_block_is_the_papers_formula():
    block = small().stages[1].blocks[0].double()
    nn.init.normal_(block.layer_scale1)
    nn.init.normal_(block.layer_scale2)
    x = torch.randn(2, 64, 9, 7, dtype=torch.double)
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    n1 = nn.functional.group_norm(x, 1, block.norm1.weight, block.norm1.bias)
    y = x + block.layer_scale1[:, None, None] * (pool(n1) - n1)
    n2 = nn.functional.group_norm(y, 1, block.norm2.weight, block.norm2.bias)
    mlp = block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(n2)))
    torch.testing.assert_close(block(x), y + block.layer_scale2[:, None, None] * mlp)


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_state_dict_round_trip(family, tmp_path):
    first, second = small(family).eval(), small(family).eval()
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(first.state_dict(), tmp_path / 'weights.pth')
    second.load_state_dict(torch.load(tmp_path / 'weights.pth', weights_only=True))
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(first(images), second(images), strict=True):
        assert torch.equal(a, b)


def test_metaformer_builds_every_member_by_full_name():
    a, b = build('MetaFormer', 'poolformer_s12'), build('PoolFormer', 's12')
    assert a.state_dict().keys() == b.state_dict().keys()
    assert a.arch == b.arch


def test_a_token_mixer_of_the_users(monkeypatch):
    @TOKEN_MIXERS.register_module(name='ShiftForTest')
    class Shift(nn.Module):
        def __init__(self, dim, k=1):
            super().__init__()
            self.k = k
            self.scale = nn.Parameter(torch.ones(dim, 1, 1))

        def forward(self, x):
            return x.roll(self.k, -1) * self.scale

    try:
        mixers = [dict(type='ShiftForTest', k=2)] * 2 + [dict(type='Pooling')] * 2
        model = small('MetaFormer', token_mixer=mixers)
        kinds = [type(s.blocks[0].token_mixer).__name__ for s in model.stages]
        assert kinds == ['Shift', 'Shift', 'Pooling', 'Pooling']
        assert model.stages[0].blocks[0].token_mixer.k == 2
        sum(o.square().mean() for o in model(torch.randn(1, 3, 64, 64))).backward()
        assert model.stages[0].blocks[0].token_mixer.scale.grad is not None
    finally:
        TOKEN_MIXERS.module_dict.pop('ShiftForTest')


def test_layer_depths_for_learning_rate_decay():
    model = small()
    depths = {
        n: model.get_layer_depth(f'backbone.{n}', 'backbone.')
        for n, _ in model.named_parameters()
    }
    assert {d[1] for d in depths.values()} == {8}
    assert depths['stages.0.downsample.conv.weight'][0] == 0
    assert depths['stages.0.blocks.0.norm1.weight'][0] == 1
    assert depths['stages.0.blocks.1.norm1.weight'][0] == 2
    assert depths['stages.1.downsample.conv.weight'][0] == 3
    assert depths['stages.1.blocks.0.mlp.fc1.weight'][0] == 3
    assert depths['stages.3.blocks.0.mlp.fc1.weight'][0] == 6
    assert depths['norm3.weight'][0] == 7
    assert model.get_layer_depth('neck.conv.weight', 'backbone.') == (7, 8)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='s13'), r"PoolFormer has no arch 's13'; choose from \['m36', 'm48'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), r"lacks \['dims'\]"),
        (dict(arch=dict(depths=(1, 1, 1), dims=(8, 8, 8, 8))), 'depths must be 4'),
        (
            dict(arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), width=3)),
            r"unknown fields \['width'\].*token_mixer",
        ),
        (dict(arch='s12', out_indices=(0, 4)), 'ascending stage indices'),
        (dict(arch='s12', out_indices=(1, 0)), 'ascending stage indices'),
        (dict(arch='s12', out_indices=()), 'ascending stage indices'),
        (dict(arch='s12', drop_path_rate=1.5), r'drop_path_rate must be in \[0, 1\)'),
        (dict(arch='s12', frozen_stages=5), 'frozen_stages must be -1 to 4, got 5'),
        (dict(arch='s12', with_cp=(1, 2)), 'with_cp needs one value or a list of 4'),
        (
            dict(arch='s12', token_mixer=dict(type='Mixr')),
            "unknown token mixer 'Mixr'; registered are .*Pooling",
        ),
        (
            dict(arch='s12', norm_cfg=dict(type='XN')),
            r"unknown norm type 'XN'.*\['BN', 'GN', 'LN', 'SyncBN'\]",
        ),
        (
            dict(arch='s12', token_mixer=dict(type='Pooling', pool_size=4)),
            'pool_size must be odd',
        ),
    ],
)
def test_wrong_arguments_name_the_choices(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='mmmeta.PoolFormer', **kwargs))


def test_images_of_other_channels():
    model = small(in_channels=5).eval()
    assert model(torch.randn(1, 5, 64, 64))[0].shape == (1, 32, 16, 16)
    with pytest.raises(ValueError, match=r'\(B, 5, H, W\), got \(1, 3, 64, 64\)'):
        model(torch.randn(1, 3, 64, 64))


def test_arch_of_a_wrong_type():
    with pytest.raises(TypeError, match='arch must be a name or a dict, got int'):
        build('PoolFormer', 12)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 3, 31, 64), 'at least 32x32 pixels, got 31x64'),
        ((1, 3, 64, 8), 'at least 32x32 pixels, got 64x8'),
        ((1, 1, 64, 64), r'\(B, 3, H, W\), got \(1, 1, 64, 64\)'),
        ((3, 64, 64), r'\(B, 3, H, W\), got \(3, 64, 64\)'),
    ],
)
def test_wrong_images(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.randn(shape))
