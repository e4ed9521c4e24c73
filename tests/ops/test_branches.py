"""Branches as autograd functions: values, gradients and memory of the plain ones."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmmeta.bench.measure import saved_bytes
from mmmeta.models.layers import MapLayerNorm
from mmmeta.models.metaformer import MetaFormerBlock
from mmmeta.models.mlp import Mlp
from mmmeta.models.token_mixers import Pooling
from mmmeta.ops.branches import PooledBranch, RecomputedMlp

SIZES = [(2, 4, 5, 6), (1, 3, 1, 4), (3, 2, 7, 2)]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize('shape', SIZES)
@pytest.mark.parametrize('scaled', [True, False])
@pytest.mark.parametrize('dropped', [True, False])
def test_pooling_against_differences(shape, scaled, dropped):
    keep = torch.tensor([2.0, 0.0, 1.5])[: shape[0]].double().view(-1, 1, 1, 1)
    inputs = (
        draw(*shape),
        draw(*shape),
        draw(shape[1]),
        draw(shape[1]) if dropped else None,
        draw(shape[1]) if scaled else None,
        keep if dropped else None,
    )
    assert torch.autograd.gradcheck(
        lambda *args: PooledBranch.apply(*args, 1e-5, 3), inputs
    )


@pytest.mark.parametrize('act', ['GELU', 'StarReLU'])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('scaled', [True, False])
def test_mlp_against_differences(act, bias, scaled):
    mlp = Mlp(3, 2, act, bias).double()
    head = nn.Sequential(MapLayerNorm(3).double(), mlp.fc1, mlp.act)
    keep = torch.tensor([2.0, 0.0]).double().view(-1, 1, 1, 1)
    inputs = (
        draw(2, 3, 4, 2),
        draw(2, 3, 4, 2),
        draw(3) if scaled else None,
        keep if scaled else None,
        mlp.fc2.weight,
        mlp.fc2.bias,
        *head.parameters(),
    )
    assert torch.autograd.gradcheck(
        lambda *args: RecomputedMlp.apply(head, *args), inputs
    )


def show_branches(model: nn.Module) -> None:
    """Enlarge layer scales, which start near 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'layer_scale' in name:
                parameter.add_(0.3)


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def gradients(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of drop path
    images = images.clone().requires_grad_()
    outs = model(images)
    sum((x * torch.randn_like(x)).mean() for x in outs).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, 'images': images.grad}


def plainly(model: nn.Module) -> nn.Module:
    """A copy whose blocks run module by module, since somebody hooks these."""
    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, MetaFormerBlock):
            for part in (block.norm1, block.norm2):
                part.register_forward_hook(lambda *args: None)
    return model


@pytest.mark.parametrize(
    'family', ['PoolFormer', 'PoolFormerV2', 'CAFormer', 'UniFormer']
)
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_training_is_that_of_the_plain_blocks(family, frozen_stages):
    arch = dict(depths=(1, 1, 2, 1), dims=(32, 64, 64, 128))
    model = MODELS.build(
        dict(
            type=f'mmmeta.{family}',
            arch=arch,
            drop_path_rate=0.3,
            frozen_stages=frozen_stages,
            recompute_mlp=True,
        )
    ).train()
    show_branches(model)
    plain = plainly(model)
    images = torch.randn(2, 3, 96, 128)
    found, expected = gradients(model, images), gradients(plain, images)
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for name, value in found.items():
        if name == 'images' and frozen_stages > 0:
            continue
        scale = float(expected[name].abs().max())
        if scale < 1e-7:  # pooling cancels the bias before it
            assert name.endswith('norm1.bias')
            scale = 1e-3
        assert float((value - expected[name]).abs().max()) <= 1e-4 * scale, name


@pytest.mark.parametrize('family', ['PoolFormer', 'PoolFormerV2'])
def test_autocast(family):
    model = MODELS.build(dict(type=f'mmmeta.{family}', arch='s12', recompute_mlp=True))
    show_branches(model)
    plain = plainly(model)
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found, expected = gradients(model, images), gradients(plain, images)
    exact = gradients(copy.deepcopy(plain), images)
    allowed = (flat(expected) - flat(exact)).norm()
    assert (flat(found) - flat(exact)).norm() < 1.5 * allowed
    assert all(value.dtype == torch.float32 for value in found.values())
    # One number, such as StarReLU's bias, may be a sum of large ones that cancel.
    single = [name for name in found if exact[name].numel() == 1]
    for names in filter(None, (single, *([n] for n in found if n not in single))):
        true = flat({name: exact[name] for name in names})
        difference, allowed = (
            (flat({name: some[name] for name in names}) - true).norm() / true.norm()
            for some in (found, expected)
        )
        assert difference < 2 * allowed + 0.02, names


def test_memory():
    model = MODELS.build(dict(type='mmmeta.PoolFormer', arch='s12', recompute_mlp=True))
    images = torch.randn(1, 3, 160, 160)

    def kept(model: nn.Module) -> int:
        return saved_bytes(model, lambda: model(images))

    less = kept(model)
    for block in model.modules():
        if isinstance(block, MetaFormerBlock):
            block.recompute_mlp = False
    assert 4 < kept(model) / less < 6
    assert 5 < kept(plainly(model)) / less < 8


def test_hooks_see_every_module():
    model = MODELS.build(dict(type='mmmeta.PoolFormer', arch='s12')).eval()
    seen = []
    pooling = [m for m in model.modules() if isinstance(m, Pooling)]
    for module in pooling:
        module.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert len(seen) == len(pooling) == 12
