"""What inference overwrites, nobody can see."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmmeta.models import FAMILIES, MetaFormer
from mmmeta.models.layers import ACTIVATIONS, activate, build_act
from mmmeta.models.mlp import Mlp
from mmmeta.ops import onednn

SHALLOW = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192))


def build(family: type[MetaFormer], **kwargs) -> MetaFormer:
    torch.manual_seed(0)
    config = dict(type=f'mmmeta.{family.__name__}', arch=dict(SHALLOW, **kwargs))
    model = MODELS.build(config).eval()
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:  # of 1e-5, which would hide the branch
            nn.init.constant_(parameter, 0.5)
    return model


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


def swap_for_a_window(model: MetaFormer) -> None:
    for module in model.modules():
        if isinstance(module, Mlp):
            dim, hidden = module.fc1.in_channels, module.fc1.out_channels
            module.fc1 = nn.Conv2d(dim, hidden, 3, padding=1)


def swap_for_a_subclass(model: MetaFormer) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    for module in model.modules():
        if isinstance(module, Mlp):
            module.fc2 = Doubled(module.fc2.in_channels, module.fc2.out_channels, 1)


def override_forward(model: MetaFormer) -> None:
    for module in model.modules():
        if isinstance(module, Mlp):  # as libraries for offloading do
            module.fc2.forward = lambda x, fc2=module.fc2: 2 * nn.Conv2d.forward(fc2, x)


@pytest.mark.parametrize(
    'change', [swap_for_a_window, swap_for_a_subclass, override_forward]
)
@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
def test_layers_of_the_users_are_called(family, change):
    model, images = build(family), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model(images)
    change(model)
    expected = model.eval()(images)
    with torch.no_grad():
        found = model(images)
    for a, b, other in zip(found, expected, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(a, other, rtol=1e-3, atol=1e-3)


def test_when_onednn_serves():
    layer = nn.Conv2d(8, 4, 1)
    x = torch.randn(1, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    assert not onednn.serves(x, [layer])  # with gradients
    with torch.no_grad():
        assert onednn.serves(x, [layer])
        assert not onednn.serves(x.contiguous(), [layer])
        assert not onednn.serves(x.double(), [layer])
        assert not onednn.serves(x, [nn.Conv2d(8, 4, 3, padding=1)])
        with torch.backends.mkldnn.flags(enabled=False):
            assert not onednn.serves(x, [layer])
        with torch.autocast('cpu', torch.bfloat16):
            assert not onednn.serves(x, [layer])


@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
def test_operations_are_counted(family):
    model, images = build(family), torch.randn(1, 3, 64, 64)
    counts = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            model(images)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 1e6


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
