"""Users' changes to the layers of a model, shared by the tests of all fast paths."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.registry import MODELS
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.utils import parametrizations, prune

from mmmeta.models import MetaFormer
from mmmeta.models.metaformer import MetaFormerBlock

SHALLOW = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192))


def build(family: str, **kwargs) -> MetaFormer:
    """A small backbone in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    model = MODELS.build(dict(dict(type=f'mmmeta.{family}', arch=SHALLOW), **kwargs))
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:  # of 1e-5, which would hide the branch
            nn.init.constant_(parameter, 0.5)
    return model.eval()


def blocks(model: nn.Module) -> list[MetaFormerBlock]:
    found = [m for m in model.modules() if isinstance(m, MetaFormerBlock)]
    assert found
    return found


def worst(found: tuple, expected: tuple) -> float:
    """Return the largest difference over the standard deviation of its map."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        float((a - b).detach().abs().max() / b.detach().std())
        for a, b in zip(found, expected, strict=True)
    )


@contextmanager
def one_process() -> Iterator[DeviceMesh]:
    """A distributed group of only this process, on the CPU."""
    distributed.init_process_group(
        'gloo', store=distributed.HashStore(), rank=0, world_size=1
    )
    try:
        yield init_device_mesh('cpu', (1,))
    finally:
        distributed.destroy_process_group()


def subclass(module: nn.Module, forward: Callable) -> None:
    """Change a module's class to a subclass, as LoRA libraries do."""
    kind = type(module)
    module.__class__ = type(f'User{kind.__name__}', (kind,), {'forward': forward})


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.7 * x


def lora(block: MetaFormerBlock) -> None:
    for conv in (block.mlp.fc1, block.mlp.fc2):
        subclass(conv, lambda s, x: nn.Conv2d.forward(s, x) + x[:, :1])


def subclassed_mlp(block: MetaFormerBlock) -> None:
    kind = type(block.mlp)
    subclass(block.mlp, lambda s, x: 2 * kind.forward(s, x))


def subclassed_act(block: MetaFormerBlock) -> None:
    kind = type(block.mlp.act)
    subclass(block.mlp.act, lambda s, x: kind.forward(s, x) + 1)


def wrapped(block: MetaFormerBlock) -> None:
    block.norm2 = nn.Sequential(block.norm2, Scale())


def own_forward(block: MetaFormerBlock) -> None:
    fc2 = block.mlp.fc2  # like offloading libraries
    fc2.forward = lambda x: 2 * nn.Conv2d.forward(fc2, x)


def own_act(block: MetaFormerBlock) -> None:
    block.mlp.act = nn.GELU(approximate='tanh')


def own_drop_path(block: MetaFormerBlock) -> None:
    block.drop_path = Scale()


def own_weight(block: MetaFormerBlock) -> None:
    weight = block.mlp.fc1.weight.detach() * 2
    del block.mlp.fc1.weight
    block.mlp.fc1.weight = weight


def hook_of_a_norm(block: MetaFormerBlock) -> None:
    block.norm1.register_forward_hook(lambda module, args, out: 1.5 * out)


def hook_of_an_mlp(block: MetaFormerBlock) -> None:
    block.mlp.register_forward_hook(lambda module, args, out: 2 * out)


def hook_of_a_block(block: MetaFormerBlock) -> None:
    block.register_forward_hook(lambda module, args, out: out + out.roll(1, 1))


def pre_hook(block: MetaFormerBlock) -> None:
    block.mlp.fc2.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def pruned(block: MetaFormerBlock) -> None:
    prune.l1_unstructured(block.mlp.fc1, 'weight', 0.5)


def parametrized(block: MetaFormerBlock) -> None:
    parametrizations.weight_norm(block.mlp.fc2)
    block.mlp.fc2.parametrizations.weight.original0.data *= 2


def wide_kernel(block: MetaFormerBlock) -> None:
    torch.manual_seed(3)
    dim, hidden = block.mlp.fc1.in_channels, block.mlp.fc1.out_channels
    block.mlp.fc1 = nn.Conv2d(dim, hidden, 3, padding=1)
    block.mlp.fc2 = nn.Conv2d(hidden, dim, 1, groups=4)


CHANGES = (
    *(lora, subclassed_mlp, subclassed_act, wrapped, own_forward, own_act),
    *(own_drop_path, own_weight, hook_of_a_norm, hook_of_an_mlp, hook_of_a_block),
    *(pre_hook, pruned, parametrized, wide_kernel),
)
