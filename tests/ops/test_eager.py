"""What inference overwrites, nobody can see."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmmeta.models import FAMILIES, MetaFormer
from mmmeta.models.layers import ACTIVATIONS, activate, build_act

SHALLOW = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192))


def build(family: type[MetaFormer], **kwargs) -> MetaFormer:
    torch.manual_seed(0)
    config = dict(type=f'mmmeta.{family.__name__}', arch=dict(SHALLOW, **kwargs))
    return MODELS.build(config).eval()


@pytest.mark.parametrize('name', ACTIVATIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_activations_in_place(name, dtype):
    act = build_act(name).to(dtype)
    if name == 'StarReLU':
        nn.init.constant_(act.scale, 0.9)
        nn.init.constant_(act.bias, -0.4)
    layer, x = nn.Conv2d(3, 8, 1).to(dtype), torch.randn(2, 3, 5, 7).to(dtype)
    expected = act(layer(x))
    step = torch.finfo(dtype).eps  # in place StarReLU rounds less often
    with torch.no_grad():
        torch.testing.assert_close(
            activate(act, layer, x), expected, rtol=2 * step, atol=2 * step
        )
    assert activate(act, layer, x).requires_grad


@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize('act', ['GELU', 'StarReLU', 'SiLU'])
def test_inference_gives_what_training_gives(family, act):
    model = build(family, act=act)
    images = torch.randn(2, 3, 96, 128)
    expected = model(images)  # in evaluation mode, with gradients
    with torch.no_grad():
        found = model(images)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
def test_mixed_precision_is_as_near_as_in_training(family):
    model, images = build(family), torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        exact = model(images)
    with torch.autocast('cpu', torch.bfloat16):
        allowed = model(images)  # with gradients, so nothing is overwritten
        with torch.no_grad():
            found = model(images)
    for a, b, true in zip(found, allowed, exact, strict=True):
        assert (a - true).norm() < 1.2 * (b - true).norm()


@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
def test_what_a_hook_took_is_left_alone(family):
    model = build(family)
    images = torch.randn(1, 3, 96, 128)
    held = []

    def take(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        held.append((output, output.clone()))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(take)
    with torch.no_grad():
        model(images)
    assert len(held) > 8
    assert all(torch.equal(now, then) for now, then in held)
