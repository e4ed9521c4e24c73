"""Checkpoints with keys removed, renamed, added or changed: right weights or an error.

The error names a key that was changed, and leaves the model as it was.
"""

import functools
import re
from typing import Any

import torch
from generated.examples import generated
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from safetensors.torch import save_file

from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.layouts import LAYOUT_NAMES
from mmmeta.weights.loading import load_checkpoint
from mmmeta.weights.state import parse, to_layout

FAMILIES = ('PoolFormer', 'ConvFormer', 'CAFormer', 'UniFormer', 'RandFormer')
OPTIONAL = re.compile(r'^norm[0-3]\.|num_batches_tracked$')
WRAPPERS = {
    'alone': lambda state: state,
    'state_dict': lambda state: dict(state_dict=state, meta=dict(epoch=3)),
    'model': lambda state: dict(model=state),
}
PREFIXES = ('', 'module.')
CHANGES = {
    'scalar': lambda x: x.sum(),
    'longer': lambda x: torch.cat([x[None], x[None]]).flatten(0, x.dim() and 1),
    'flat': lambda x: x.flatten() if x.dim() > 1 else x[None],
    'another rank': lambda x: x[None, None],
    'none': lambda x: x.flatten()[:0],
    'integers': lambda x: torch.ones_like(x, dtype=torch.int64),
    'complex': lambda x: torch.ones_like(x, dtype=torch.complex64),
    'no tensor': lambda x: 'weights',
}


def build(family: str) -> Any:
    arch = dict(depths=(1, 1, 2, 1), dims=(64, 64, 64, 64))
    return MODELS.build(dict(type=f'mmmeta.{family}', arch=arch))


@functools.cache
def models(family: str) -> tuple[Any, Any, dict[str, tuple[dict, dict]]]:
    """Return two models and the first one's weights in each layout that has them.

    With the weights are their names in the model.
    """
    source, target = build(family), build(family)
    weights = {k: v for k, v in source.state_dict().items() if not OPTIONAL.search(k)}
    found = {}
    for name in LAYOUT_NAMES:
        try:
            state = to_layout(parse(weights), name)
        except CheckpointError:
            continue
        found[name] = state, {k: own for own, k in parse(state).names.items()}
    return source, target, found


def change(draw: Any, weights: dict) -> dict:
    state = dict(weights)
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(state)))
        how = draw(st.sampled_from(['remove', 'rename', 'add', *CHANGES]))
        value = state[key]
        if how == 'add':
            new = draw(st.sampled_from([f'{key}.extra', f'x.{key}', f'{key}2']))
            state[new] = value
        elif how == 'remove':
            del state[key]
        elif how == 'rename':
            state[f'{key}_'] = state.pop(key)
        elif isinstance(value, torch.Tensor):
            state[key] = CHANGES[how](value)
    return state


def differ(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is not other
    return (one.shape, one.dtype) != (other.shape, other.dtype)


@generated
@given(st.sampled_from(FAMILIES), st.data())
def test_any_checkpoint(tmp_path, family, data):
    source, target, written = models(family)
    weights, own = written[data.draw(st.sampled_from(sorted(written)))]
    state = change(data.draw, weights)
    changed = [k for k in {**weights, **state} if differ(weights.get(k), state.get(k))]
    prefix = data.draw(st.sampled_from(PREFIXES))
    state = {prefix + k: v for k, v in state.items()}
    tensors = all(isinstance(x, torch.Tensor) for x in state.values())
    if tensors and data.draw(st.booleans()):
        file = tmp_path / 'x.safetensors'
        save_file({k: v.clone() for k, v in state.items()}, file)
    else:
        file = tmp_path / 'x.pth'
        torch.save(WRAPPERS[data.draw(st.sampled_from([*WRAPPERS]))](state), file)

    torch.nn.init.normal_(next(target.parameters()))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    try:
        load_checkpoint(target, file)
    except CheckpointError as error:
        text = str(error)
        assert changed, text
        for k, v in target.state_dict().items():
            assert torch.equal(v, before[k]), k
        names = [*changed, *(own.get(key, key) for key in changed)]
        assert any(k.removeprefix('backbone.') in text for k in names), (names, text)
        return
    assert not changed, changed
    expected = source.state_dict()
    for k, v in target.state_dict().items():
        assert OPTIONAL.search(k) or torch.equal(v, expected[k]), k
