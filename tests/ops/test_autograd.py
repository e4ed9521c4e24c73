"""Recomputing maps in the backward pass: the same gradients with less memory."""

import copy

import pytest
import torch
from models.changes import CHANGES, blocks, build, one_process, worst
from torch import nn
from torch.distributed.fsdp import fully_shard

from benchmarks.measure import saved_bytes
from mmmeta.models import FAMILIES

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
WAYS = [
    dict(recompute_mlp=True),
    dict(with_cp=True),
    dict(recompute_mlp=True, with_cp=True),
]


def gradients(model: nn.Module, parameters: dict | None = None) -> dict:
    """Return the gradients of a loss of all maps, one per trained parameter."""
    torch.manual_seed(2)  # of drop path
    values = dict(model.named_parameters()) if parameters is None else parameters
    outs = (
        model(X)
        if parameters is None
        else torch.func.functional_call(model, values, (X,))
    )
    sum((out * out.detach().roll(1, 3)).mean() for out in outs).backward()
    return {n: v.grad for n, v in values.items() if v.requires_grad}


def check(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.norm()) + 1e-7
        assert float((found[name] - value).norm()) < 1e-4 * scale + 1e-6, name


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
@pytest.mark.parametrize('way', WAYS, ids=str)
def test_training_is_the_same(family, way):
    kwargs = dict(drop_path_rate=0.3, frozen_stages=1)
    plain, other = (build(family, **kwargs, **w).train() for w in ({}, way))
    check(gradients(other), gradients(plain))
    # Batch norms update their statistics once per batch.
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer)


@pytest.mark.parametrize('way', WAYS, ids=str)
@pytest.mark.parametrize('change', CHANGES)
def test_layers_of_the_users(way, change):
    plain, other = build('PoolFormer').train(), build('PoolFormer', **way).train()
    for model in (plain, other):
        for block in blocks(model):
            change(block)
    assert worst(other(X), plain(X)) < 1e-5
    check(gradients(other), gradients(plain))


@pytest.mark.parametrize('way', WAYS, ids=str)
def test_parameters_that_were_lent(way):
    plain, other = build('PoolFormer').train(), build('PoolFormer', **way).train()
    new = {
        n: v.detach() + 0.1 * torch.randn_like(v) for n, v in plain.named_parameters()
    }
    found, expected = (
        gradients(m, {n: v.clone().requires_grad_() for n, v in new.items()})
        for m in (other, plain)
    )
    check(found, expected)


@pytest.mark.parametrize('way', WAYS, ids=str)
def test_parameters_changed_in_between_are_noticed(way):
    model = build('PoolFormer', **way).train()
    loss = model(X)[-1].sum()
    with torch.no_grad():
        blocks(model)[0].mlp.fc1.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r'mlp\.fc1\.weight|1\.fc1\.weight'):
        loss.backward()


@pytest.mark.parametrize('way', [{}, *WAYS], ids=str)
@pytest.mark.parametrize('family', ['PoolFormer', 'UniFormer'])
def test_sharded_parameters(family, way):
    """FSDP gathers a block's parameters for each run."""
    plain, other = build(family).train(), build(family, **way).train()
    with one_process() as mesh:
        for module in (*blocks(other), other):
            fully_shard(module, mesh=mesh)
        found = {name: g.full_tensor() for name, g in gradients(other).items()}
    check(found, gradients(plain))


def test_random_numbers_are_drawn_once():
    models = [build('PoolFormer', recompute_mlp=way).train() for way in (False, True)]
    for model in models:
        for block in blocks(model):
            block.mlp.act = nn.Sequential(block.mlp.act, nn.Dropout(0.5))
    plain, other = (gradients(model) for model in models)
    check(other, plain)


def test_autocast():
    plain, other = (
        build('PoolFormer', recompute_mlp=way).train() for way in (False, True)
    )
    with torch.autocast('cpu', torch.bfloat16):
        check(gradients(other), gradients(plain))


def test_memory():
    def kept(**way) -> int:
        model = build('PoolFormer', arch='s12', **way).train()
        images = torch.randn(1, 3, 160, 160)
        return saved_bytes(model, lambda: model(images))

    plain = kept()
    assert 2.3 < plain / kept(recompute_mlp=True) < 3.5
    assert plain / kept(with_cp=True) > 5


def test_within_transforms():
    model = build('PoolFormer', recompute_mlp=True)
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict, x: torch.Tensor) -> torch.Tensor:
        outs = torch.func.functional_call(model, parameters, (x[None],))
        return sum(out.square().mean() for out in outs)

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, X)
    for i, x in enumerate(X):
        one = copy.deepcopy(model)
        one.zero_grad()
        loss(dict(one.named_parameters()), x).backward()
        check(
            {n: g[i] for n, g in found.items()},
            {n: p.grad for n, p in one.named_parameters()},
        )
