"""The fast block gives the plain block's results, or falls back to it."""

import copy

import pytest
import torch
from models.changes import CHANGES, blocks, build, one_process, subclass, worst
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.tensor import distribute_module, distribute_tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmmeta.models import FAMILIES, fast
from mmmeta.models.fast import FastBlock
from mmmeta.models.metaformer import MetaFormerBlock
from mmmeta.ops import guards, onednn

NAMES = [family.__name__ for family in FAMILIES]
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def taken(monkeypatch):
    """The calls of oneDNN's operator: without any, the fast path was not taken."""
    calls, pointwise = [], onednn.pointwise

    def count(*args, **kwargs):
        calls.append(args)
        return pointwise(*args, **kwargs)

    monkeypatch.setattr(onednn, 'pointwise', count)
    return calls


@pytest.mark.parametrize('family', NAMES)
@pytest.mark.parametrize('act', ['GELU', 'StarReLU', 'SiLU', 'ReLU', 'Identity'])
def test_the_same_numbers(family, act, taken):
    arch = dict(depths=(1, 1, 2, 1), dims=(32, 64, 128, 192), act=act)
    model = build(family, arch=arch, drop_path_rate=0.3)
    plain = build(family, arch=arch, fast=False)
    assert {type(block) for block in blocks(model)} == {FastBlock}
    assert {type(block) for block in blocks(plain)} == {MetaFormerBlock}
    assert model.state_dict().keys() == plain.state_dict().keys()
    with torch.inference_mode():
        expected, before = plain(X), len(taken)
        assert worst(model(X), expected) < 1e-5
    assert before == 0 < len(taken)


@pytest.mark.parametrize('family', ['PoolFormer', 'CAFormer', 'UniFormer'])
def test_bfloat16_is_as_near_as_the_plain_block(family, taken):
    model, plain = build(family), build(family, fast=False)
    with torch.no_grad():
        exact = plain(X)
        low = [m.bfloat16()(X.bfloat16()) for m in (model, plain)]
    assert taken
    for found, allowed, true in zip(*low, exact, strict=True):
        assert (found - true).norm() < 1.1 * (allowed - true).norm()


def test_the_switch(monkeypatch):
    monkeypatch.setenv('MMMETA_FAST', '0')
    assert type(blocks(build('PoolFormer'))[0]) is MetaFormerBlock
    assert type(blocks(build('PoolFormer', fast=True))[0]) is FastBlock
    monkeypatch.setenv('MMMETA_FAST', 'maybe')
    with pytest.raises(ValueError, match='MMMETA_FAST must be 1 or 0, got maybe'):
        build('PoolFormer')


@pytest.mark.parametrize('family', ['PoolFormer', 'ConvFormer', 'CAFormer'])
@pytest.mark.parametrize('change', CHANGES)
def test_what_users_changed_is_kept(family, change):
    model = build(family)
    with torch.no_grad():
        before = model(X)
    for block in blocks(model):
        change(block)
    expected = model(X)  # with gradients, by the plain blocks
    with torch.no_grad():
        assert worst(model(X), expected) < 1e-4
    assert worst(before, expected) > 3e-5


@pytest.mark.parametrize('family', NAMES)
def test_what_hooks_and_recorders_keep_is_left_alone(family):
    model, held = build(family), []

    def keep(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        held.extend((x, x.clone()) for x in (args[0], out))

    for block in blocks(model):
        for name, module in list(block.named_modules()):
            if name and not name.startswith('drop_path'):
                module.register_forward_hook(keep)
        block.mlp.fc2 = nn.Sequential(block.mlp.fc2)
    with torch.no_grad():
        model(X)
    assert len(held) > 8
    assert all(torch.equal(now, then) for now, then in held)


def test_hooks_of_all_modules_are_called():
    model, seen = build('PoolFormer'), []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(module)
    )
    with hook, torch.no_grad():
        model(X)
    assert {*seen} == {*model.modules()} - {model.stages} - {
        stage.blocks for stage in model.stages
    }


def test_a_method_replaced_in_its_class_is_called(monkeypatch):
    model = build('PoolFormer')
    forward = nn.GELU.forward
    monkeypatch.setattr(nn.GELU, 'forward', lambda self, x: 2 * forward(self, x))
    expected = model(X)
    with torch.no_grad():
        assert worst(model(X), expected) < 1e-4


@pytest.mark.parametrize('kind', [nn.Conv2d, nn.BatchNorm2d])
def test_parameters_with_strides(kind):
    model = build('UniFormer')
    for module in model.modules():
        if isinstance(module, kind) and module.bias is not None:
            wide = torch.full((2 * len(module.bias),), 100.0)
            wide[::2] = module.bias.data
            module.bias.data = wide[::2]
    expected = model(X)
    with torch.no_grad():
        assert worst(model(X), expected) < 1e-4


@pytest.mark.parametrize('family', NAMES)
@pytest.mark.parametrize('where', ['weights', 'images'])
def test_what_is_not_finite_is_seen(family, where):
    model, plain = build(family), build(family, fast=False)
    images = X.clone()
    if where == 'images':
        images[0, 0, 20, 20] = torch.nan
    else:
        for m in (model, plain):
            blocks(m)[1].mlp.fc1.weight.data[3] = torch.nan
    with torch.no_grad():
        found, expected = model(images), plain(images)
    assert expected[-1].isnan().any()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize('family', NAMES)
@pytest.mark.parametrize('gradients', [True, False])
def test_an_ensemble_by_vmap(family, gradients):
    models = [build(family), build(family)]
    for p in models[1].parameters():
        p.data *= 1.1
    values = torch.func.stack_module_state(models)

    def last(parameters: dict, buffers: dict) -> torch.Tensor:
        return torch.func.functional_call(models[0], (parameters, buffers), (X,))[-1]

    with torch.set_grad_enabled(gradients):
        found = torch.func.vmap(last)(*values)
        expected = [model(X)[-1] for model in models]
    assert worst(found, expected) < 1e-4


@pytest.mark.parametrize('family', NAMES)
def test_distributed_parameters(family, taken):
    model = build(family)
    with torch.no_grad(), one_process() as mesh:
        expected = model(X)
        taken.clear()
        found = distribute_module(model, mesh)(distribute_tensor(X, mesh))
        assert worst([x.full_tensor() for x in found], expected) < 1e-4
    assert not taken


@pytest.mark.parametrize('family', ['PoolFormer', 'CAFormer'])
def test_forward_mode(family):
    model, direction = build(family).double(), torch.randn(X.shape).double()
    x = X.double()
    # PyTorch's other attention kernels do not support forward-mode AD.
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        out = model(forward_ad.make_dual(x, direction))[-1]
        found = forward_ad.unpack_dual(out).tangent
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (model(x + s * step * direction)[-1] for s in (1, -1))
    assert worst([found], [(ahead - behind) / (2 * step)]) < 1e-4


@pytest.mark.parametrize('options', [{}, dict(recompute_mlp=True), dict(with_cp=True)])
def test_a_gradient_penalty(options):
    """The second derivative equals finite differences of the first."""
    model = build('PoolFormer', **options).double().train()
    x, direction = X[:1].double().requires_grad_(), torch.randn(1, 3, 64, 96).double()

    def slope(x: torch.Tensor, create_graph: bool) -> torch.Tensor:
        loss = model(x)[-1].square().sum()
        return torch.autograd.grad(loss, x, create_graph=create_graph)[0]

    (second,) = torch.autograd.grad((slope(x, True) * direction).sum(), x)
    step = 1e-5
    ahead, behind = (slope(x + s * step * direction, False) for s in (1, -1))
    assert worst([second], [(ahead - behind) / (2 * step)]) < 1e-4


@pytest.mark.parametrize('family', NAMES)
def test_operations_are_counted(family):
    model, counts = build(family), []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            model(X)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 1e6


@pytest.mark.parametrize('family', NAMES)
def test_mixed_precision_is_as_near_as_in_training(family):
    model = build(family)
    with torch.no_grad():
        exact = model(X)
    with torch.autocast('cpu', torch.bfloat16):
        allowed = model(X)
        with torch.no_grad():
            found = model(X)
    for a, b, true in zip(found, allowed, exact, strict=True):
        assert (a - true).norm() < 1.2 * (b - true).norm()


def test_when_it_may_act():
    block = build('PoolFormer').stages[0].blocks[0]
    x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    assert not block._may_act(x)
    with torch.no_grad():
        assert block._may_act(x)
        for other in (
            x.contiguous(),
            x.double(),
            x.half(),
            x[:0],
            nn.Parameter(x),
            x.to('meta'),
        ):
            assert not block._may_act(other)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not block._may_act(x)
        with torch.device('cpu'):  # a mode
            assert not block._may_act(x)
        assert not copy.deepcopy(block).bfloat16()._may_act(x)
        changed = copy.deepcopy(block)
        subclass(changed, MetaFormerBlock.forward)
        assert not fast.guards.may_stand_in(changed, x, fast.KNOWN)
        dropping = build('PoolFormer', drop_path_rate=0.5).stages[3].blocks[0]
        y = torch.randn(1, 192, 8, 8).contiguous(memory_format=torch.channels_last)
        assert dropping._may_act(y)
        assert not dropping.train()._may_act(y)


def test_no_images():
    model = build('ConvFormer')
    with torch.no_grad():
        assert [x.shape[0] for x in model(X[:0])] == [0] * 4


@pytest.mark.parametrize(
    'name', ['_linear_pointwise', '_convolution_pointwise', '_reorder_linear_weight']
)
def test_an_operator_that_pytorch_changed_is_not_used(monkeypatch, name, taken):
    operator = getattr(torch.ops.mkldnn, name)

    def changed(*args):
        return 1.5 * operator(*args) if name != '_reorder_linear_weight' else None

    monkeypatch.setattr(torch.ops.mkldnn, name, changed)
    onednn._dtypes.cache_clear()
    try:
        assert onednn.dtypes() == ()
        taken.clear()
        with torch.no_grad():
            build('PoolFormer')(X)
        assert not taken
    finally:
        monkeypatch.undo()
        onednn._dtypes.cache_clear()
    assert torch.float32 in onednn.dtypes()


def test_where_pytorch_cannot_tell_what_is_active(monkeypatch, taken):
    monkeypatch.delattr(torch._C, '_len_torch_dispatch_stack')
    guards._depths.cache_clear()
    try:
        with torch.no_grad():
            build('PoolFormer')(X)
    finally:
        monkeypatch.undo()
        guards._depths.cache_clear()
    assert not taken
