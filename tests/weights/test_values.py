"""Tensors that a model cannot take as they are, and keys that it has not."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from mmmeta.models import PoolFormer
from mmmeta.weights import CheckpointError, load_backbone, load_checkpoint

TINY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
KEY = 'stages.1.blocks.0.mlp.fc1.weight'


@pytest.fixture(scope='module')
def source() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return PoolFormer(TINY).state_dict()


@pytest.fixture
def state(source) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in source.items()}


def refused(module: nn.Module, state: dict, words: str) -> None:
    """The load is refused and changes nothing."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_backbone(module, state)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ('given', 'wanted', 'value'),
    [
        (torch.float32, torch.float16, 7e4),
        (torch.float64, torch.float16, -1e30),
        (torch.bfloat16, torch.float16, 1e5),
        (torch.float64, torch.float32, 1e300),
        (torch.float64, torch.bfloat16, 1e300),
    ],
)
def test_values_that_half_precision_cannot_hold(state, given, wanted, value):
    state = {key: tensor.to(given) for key, tensor in state.items()}
    module = PoolFormer(TINY).to(wanted)
    load_backbone(module, state)
    state[KEY][0, 0] = value
    refused(module, state, rf'{KEY} has values up to .*, which {wanted} cannot')
    load_backbone(module.double(), state)


def test_numbers_that_an_integer_cannot_hold():
    arch = dict(TINY, norm=dict(type='BN'))
    module = PoolFormer(arch)
    key = 'stages.0.blocks.0.norm1.num_batches_tracked'
    state = dict(module.state_dict(), **{key: torch.tensor(True)})
    refused(module, state, rf'{key} is torch\.bool, expected torch\.int64')
    load_backbone(module, dict(state, **{key: torch.tensor(3, dtype=torch.uint8)}))
    assert module.state_dict()[key] == 3


class Wrapper(Tensor):
    """A tensor whose values are elsewhere."""

    @staticmethod
    def __new__(cls, shape):
        return Tensor._make_wrapper_subclass(cls, shape)

    @classmethod
    def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
        raise NotImplementedError


class Named(Tensor):
    """A tensor with more to it, and the values in it."""


def _fake(value: Tensor) -> Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(value.shape)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda v: v.to(torch.float8_e4m3fn), r'is torch\.float8_e4m3fn, expected'),
        (lambda v: v.to(torch.complex64), r'is torch\.complex64, expected'),
        (lambda v: v > 0, r'is torch\.bool, expected'),
        (lambda v: v.int(), r'is torch\.int32, expected'),
        (lambda v: v.to_sparse(), 'is not a plain dense tensor'),
        (lambda v: v.to('meta'), 'has no values: it is on the meta device'),
        (_fake, 'is a FakeTensor'),
        (lambda v: Wrapper(v.shape), 'is a Wrapper, expected a plain tensor'),
        (lambda v: nn.UninitializedParameter(), 'is not initialized'),
        (lambda v: torch.full_like(v, torch.nan), 'NaN or infinite'),
    ],
)
def test_tensors_that_are_not_plain(state, change, words):
    state[KEY] = change(state[KEY])
    refused(PoolFormer(TINY), state, rf'{KEY} {words}|{KEY} .*{words}')


@pytest.mark.parametrize(
    'change',
    [
        lambda v: v.as_subclass(Named),
        lambda v: nn.Parameter(v),
        lambda v: v.flip(0).flip(0).mT.contiguous().mT if v.dim() > 1 else v,
        lambda v: torch.cat([v, v])[: len(v)] if v.dim() else v,
    ],
)
def test_tensors_of_another_layout_or_class(state, change):
    module = PoolFormer(TINY)
    load_backbone(module, {key: change(value) for key, value in state.items()})
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_expanded_tensors(state):
    state[KEY] = state[KEY][:1, :1].expand_as(state[KEY])
    module = PoolFormer(TINY)
    load_backbone(module, state)
    assert torch.equal(module.state_dict()[KEY], state[KEY])
    weight = module.stages[1].blocks[0].mlp.fc1
    weight.weight = nn.Parameter(weight.weight[:1, :1].expand_as(weight.weight))
    refused(module, state, f'{KEY} cannot be written.*expanded view')


def test_a_model_on_the_meta_device(state):
    with torch.device('meta'):
        module = PoolFormer(TINY)
    words = 'the model is on the meta device'
    for load in (load_backbone, load_checkpoint, lambda m, s: m.load_state_dict(s)):
        with pytest.raises(CheckpointError, match=words):
            load(module, state)
    module.load_state_dict(state, assign=True)
    assert torch.equal(module.state_dict()[KEY], state[KEY])


def test_tied_tensors(state):
    module = PoolFormer(TINY)
    one, other = 'stages.0.blocks.0.norm1.weight', 'stages.0.blocks.0.norm2.weight'
    block = module.stages[0].blocks[0]
    block.norm2.weight = block.norm1.weight
    state[one] = torch.full((8,), 2.0)
    refused(module, state, f'{other} differs from {one}, but the model ties them')
    del state[other]  # as in files of safetensors
    load_backbone(module, state)
    assert block.norm2.weight.eq(2).all()
    block.norm2.weight = nn.Parameter(torch.ones(8))
    refused(module, state, f'1 missing: {other}')


DIGITS = '9' * 5000


@pytest.mark.parametrize(
    'key',
    [
        f'stages.0.blocks.{DIGITS}.mlp.fc1.weight',
        f'stages.{DIGITS}.blocks.0.mlp.fc1.weight',
        f'network.{DIGITS}.0.mlp.fc1.weight',
        f'norm{DIGITS}.weight',
        'norm\u00b2.weight',
        'stages.\u0663.blocks.0.norm1.weight',
        'stages.0.blocks.\n.norm1.weight',
        '',
        '.',
        'stages',
        'stages.0',
    ],
)
def test_keys_that_are_none_of_ours(state, key):
    module = PoolFormer(TINY)
    refused(module, {**state, key: torch.ones(1)}, '.')
    with pytest.raises(CheckpointError) as caught:
        load_backbone(module, {key: torch.ones(1)})
    assert len(str(caught.value)) < 1500
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('key', [0, b'a', None, ('a', 'b')])
def test_keys_that_are_no_names(state, key):
    module = PoolFormer(TINY)
    state[key] = torch.ones(1)
    refused(module, state, 'keys that are not strings')
    with pytest.raises(CheckpointError, match='keys that are not strings'):
        module.load_state_dict(state)


def test_values_that_are_no_tensors(state):
    refused(PoolFormer(TINY), {**state, KEY: None}, r'not tensors: .*\(NoneType\)')
    refused(PoolFormer(TINY), {**state, KEY: state[KEY].numpy()}, 'not tensors')


def test_a_checkpoint_given_whole(state):
    module = PoolFormer(TINY)
    load_backbone(module, {'epoch': 3, 'state_dict_ema': {}, 'model': state})
    assert torch.equal(module.state_dict()[KEY], state[KEY])
