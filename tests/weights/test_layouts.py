"""Rename tables: round trips, recognition, collisions, other packages' models."""

from pathlib import Path

import mmpretrain.models  # noqa: F401
import pytest
import timm
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN
from torch import Tensor, nn

import mmmeta
from mmmeta.models import FAMILIES
from mmmeta.registry import MODELS
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.layouts import LAYOUT_NAMES, LAYOUTS, MMMETA
from mmmeta.weights.patterns import Layout, Pattern, Row
from mmmeta.weights.state import parse, recognize, to_layout

TOLERANCE = 1e-4
TIMM_ARCHS = sorted(
    arch
    for family in ('poolformer', 'poolformerv2', 'convformer', 'caformer')
    for arch in timm.list_models(f'{family}_*')
)
DATA = Path(__file__).resolve().parents[1] / 'data/golden'
RECORDED = {path.stem for path in DATA.glob('*.json')}
SMALL = ('poolformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18')
POOLFORMER_SIZES = ('s12', 's24', 's36', 'm36', 'm48')


def sized(archs) -> list:
    """Mark all but the small archs slow."""
    small = (*SMALL, 's12')
    return [
        pytest.param(a, marks=() if a in small else pytest.mark.slow) for a in archs
    ]


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def randomise(model: nn.Module) -> nn.Module:
    """Randomize all weights so that no scale hides a branch; set evaluation mode.

    To save time, all weights but vectors are parts of the same random numbers, each
    from another position, so that no two of a shape are equal.
    """
    large = max(value.numel() for value in model.parameters())
    drawn, start = torch.randn(large + 100_003), 0
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1:
                part = drawn[start : start + value.numel()].view_as(value)
                torch.mul(part, (1 / value[0].numel()) ** 0.5, out=value)
                start = (start + 7_919) % 100_003
            elif name.endswith('bias'):
                value.normal_(std=0.05)
            else:
                value.normal_(1, 0.1)
    return model.eval()


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def image(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side)


def test_round_trip_of_every_golden_key(golden_name, golden):
    file = golden(golden_name)
    official = {k: torch.empty(s, device='meta') for k, s in file.keys.items()}
    parsed = parse(official)
    assert parsed.layout.name == file.layout
    back = to_layout(parsed, file.layout)
    assert shapes(back) == shapes(official)
    own = to_layout(parsed, 'mmmeta')
    assert shapes(to_layout(parse(own), file.layout)) == shapes(official)


def test_every_family_has_a_golden_file(golden_names):
    assert len(golden_names) == 22
    assert {n.split('_')[0] for n in golden_names} == {
        family.family.lower() for family in FAMILIES
    }


def test_every_row_is_used(golden_names, golden):
    """Every row of a table is used for some reference's keys."""
    used = set()
    for name in golden_names:
        keys = list(golden(name).keys)
        layout = recognize(keys)
        used |= {id(layout.find(key)[1]) for key in keys}
    sail = [x for x in LAYOUTS if '/' in x.name]
    unused = [row.official for x in sail for row in x.rows if id(row) not in used]
    # The reference can be built with it, no published checkpoint is.
    assert unused == []


@pytest.mark.parametrize(
    ('text', 'key', 'fields'),
    [
        ('a.{2i-1}.b', 'a.5.b', {'i': 3}),
        ('a.{2i}.{b}', 'a.4.10', {'i': 2, 'b': 10}),
        ('blocks{i+1}.{b}', 'blocks4.0', {'i': 3, 'b': 0}),
    ],
)
def test_pattern_reads_and_writes(text, key, fields):
    pattern = Pattern(text, range(4))
    match = pattern.match(key)
    assert match.fields == fields
    assert pattern.format(match) == key


@pytest.mark.parametrize(
    ('text', 'key'),
    [
        ('a.{2i}.b', 'a.3.b'),  # odd
        ('a.{i}.b', 'a.4.b'),  # there are four stages
        ('a.{i+1}.b', 'a.0.b'),
        ('a.{i}.b', 'a.01.b'),  # would collide with a.1.b
        ('a.[x|y]', 'a.z'),
        ('a.b', 'a.b.c'),
        ('a.*', 'a.'),
    ],
)
def test_pattern_refuses(text, key):
    assert Pattern(text, range(4)).match(key) is None


def test_bad_pattern():
    with pytest.raises(ValueError, match='not a key pattern'):
        Pattern('a.{i', range(4))


def test_mmpretrain_norm6(golden):
    state = golden('poolformer_s12').checkpoint()
    classifier = {f'backbone.{k}': v for k, v in state.items() if k[:4] != 'norm'}
    for leaf in ('weight', 'bias'):
        classifier[f'head.fc.{leaf}'] = classifier.pop(f'backbone.head.{leaf}')
        classifier[f'backbone.norm6.{leaf}'] = state[f'norm.{leaf}']
    parsed = parse(classifier)
    assert parsed.layout.name == 'mmpretrain'
    assert parsed.backbone['norm.weight'] is state['norm.weight']
    assert 'norm3.weight' not in parsed.backbone
    dense = {
        f'backbone.{k}': v
        for k, v in state.items()
        if not k.startswith(('head.', 'norm.'))
    }
    parsed = parse(dense)
    assert parsed.backbone['norm3.weight'] is state['norm6.weight']
    assert 'norm.weight' not in parsed.backbone
    assert shapes(to_layout(parsed, 'mmpretrain')) == shapes(dense)


def test_unknown_layout_names_the_nearest(golden):
    state = golden('caformer_s18').checkpoint()
    state['stages.1.2.mlp.fc3.weight'] = state.pop('stages.1.2.mlp.fc2.weight')
    with pytest.raises(CheckpointError) as caught:
        parse(state)
    text = str(caught.value)
    assert "'sail-sg/metaformer', where 205 of its 206 keys fit" in text
    assert 'not stages.1.2.mlp.fc3.weight' in text


def test_foreign_keys_are_of_no_layout():
    state = timm.create_model('resnet18').state_dict()
    with pytest.raises(CheckpointError, match='no layout that mmmeta knows'):
        parse(state)
    with pytest.raises(CheckpointError, match='no weights'):
        parse({})


def test_colliding_keys_are_an_error():
    layout = Layout('x', (Row('a.{i}', 's.{i}'), Row('b.{i}', 's.{i}')))
    with pytest.raises(
        CheckpointError, match=r"'a\.1' and 'b\.1' would both be 's\.1'"
    ):
        layout.to_own(['a.1', 'b.1'])
    with pytest.raises(CheckpointError, match='collide'):
        Layout('x', (Row('a', 's.{i}'.replace('{i}', '[0|1]')),)).to_official(
            ['s.0', 's.1']
        )


def test_two_heads_collide(golden):
    state = golden('convformer_s18').checkpoint()
    state['head.weight'] = state['head.fc2.weight']
    with pytest.raises(CheckpointError, match='collide'):
        parse(state)


@pytest.mark.parametrize(
    'wrap', ['module.', 'module.backbone.', '_orig_mod.', 'backbone.']
)
def test_prefixes_are_found(golden, wrap):
    state = golden('poolformer_s12').checkpoint()
    wrapped = {wrap + k: v for k, v in state.items() if not k.startswith('head.')}
    parsed = parse(wrapped)
    assert len(parsed.backbone) == len(wrapped)
    assert parsed.names['norm.weight'] == f'{wrap}norm.weight'
    assert torch.equal(parsed.backbone['norm.weight'], state['norm.weight'])


def test_given_prefix(golden):
    state = golden('poolformer_s12').checkpoint()
    inside = {f'teacher.net.{k}': v for k, v in state.items()} | {'bias': torch.ones(1)}
    parsed = parse(inside, prefix='teacher.net')
    assert len(parsed.backbone) + len(parsed.outer) == len(state)
    with pytest.raises(
        CheckpointError, match=r"no keys under prefix 'student\.'.*teacher"
    ):
        parse(inside, prefix='student.')


def test_detector_keeps_its_other_keys(golden):
    state = {
        f'backbone.{k}': v
        for k, v in golden('poolformer_s12').checkpoint().items()
        if not k.startswith(('head', 'norm.'))
    }
    state['bbox_head.cls.weight'] = torch.ones(3)
    parsed = parse(state)
    assert set(parsed.outer) == {'bbox_head.cls.weight'}
    assert 'bbox_head.cls.weight' in to_layout(parsed, 'mmpretrain')
    assert 'bbox_head.cls.weight' in to_layout(parsed, 'mmmeta')
    with pytest.raises(CheckpointError, match=r'represent bbox_head\.cls\.weight'):
        to_layout(parsed, 'sail-sg/poolformer')


def test_own_layout_takes_any_token_mixer():
    keys = ['stages.0.downsample.conv.weight', 'stages.0.blocks.0.token_mixer.my.w']
    assert recognize(keys) is MMMETA


def test_unknown_target_layout(golden):
    parsed = parse(golden('poolformer_s12').checkpoint())
    with pytest.raises(CheckpointError, match='choose from mmmeta, sail-sg/poolformer'):
        to_layout(parsed, 'torchvision')
    assert len(LAYOUT_NAMES) >= 7


def test_timm_archs_are_all_there():
    assert len(TIMM_ARCHS) == 18


@pytest.mark.parametrize('arch', TIMM_ARCHS)
def test_timm_keys_both_ways(arch):
    with torch.device('meta'):
        theirs = timm.create_model(arch).state_dict()
    parsed = parse(theirs)
    assert parsed.layout.name == 'timm'
    assert shapes(to_layout(parsed, 'timm')) == shapes(theirs)
    own = to_layout(parsed, 'mmmeta')
    assert all(v.dim() == 4 for k, v in own.items() if '.mlp.fc' in k and v.dim() > 1)
    assert shapes(to_layout(parse(own), 'timm')) == shapes(theirs)


# Of the others' sizes, test_golden.py compares outputs with recorded ones.
@pytest.mark.parametrize(
    'arch', sized(a for a in TIMM_ARCHS if a in SMALL or a not in RECORDED)
)
def test_timm_outputs_equal_and_back(arch, undrawn):
    with torch.device('meta'):  # skip initialization; all is overwritten
        theirs = timm.create_model(arch)
    theirs = randomise(theirs.to_empty(device='cpu'))
    ours = mmmeta.create_model(arch, checkpoint=theirs.state_dict()).eval()
    x = image()
    with torch.no_grad():
        expected = theirs.forward_intermediates(x, intermediates_only=True)
        with torch.device('meta'):
            dense = MODELS.build(
                dict(type=type(ours.backbone), arch=arch.split('_')[1], out_norm=False)
            )
        dense = dense.to_empty(device='cpu').eval()
        dense.load_state_dict(theirs.state_dict())
        # Both round, in 48 blocks: 1.2e-4 of each other on some processors.
        tolerance = TOLERANCE * (2 if 'm48' in arch else 1)
        for out, reference in zip(dense(x), expected, strict=True):
            assert error(out, reference) < tolerance
        if arch.startswith('poolformer_'):
            # timm pools before the final norm, the official code after it.
            logits = theirs.head.fc(
                nn.functional.group_norm(
                    expected[-1], 1, theirs.head.norm.weight, theirs.head.norm.bias
                ).mean((2, 3))
            )
        else:
            logits = theirs(x)
        assert error(ours(x), logits) < TOLERANCE
        back = to_layout(parse(ours.state_dict()), 'timm')
        given = theirs.state_dict()
        assert back.keys() == given.keys()
        for key, value in back.items():
            assert torch.equal(value, given[key]), key
        theirs.load_state_dict(back, strict=True)


@pytest.mark.parametrize('size', sized(POOLFORMER_SIZES))
def test_mmpretrain_outputs_equal_and_back(size, undrawn):
    theirs = randomise(
        MMPRETRAIN.build(
            dict(
                type='ImageClassifier',
                _scope_='mmpretrain',
                backbone=dict(type='PoolFormer', arch=size),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead',
                    num_classes=1000,
                    in_channels=768 if size[0] == 'm' else 512,
                ),
            )
        )
    )
    # Its backbone's train() returns None, so that eval() leaves it training.
    ours = mmmeta.create_model(f'poolformer_{size}', checkpoint=theirs.state_dict())
    x = image()
    with torch.no_grad():
        assert error(ours.eval()(x), theirs(x)) < TOLERANCE
    back = to_layout(parse(ours.state_dict()), 'mmpretrain')
    for key, value in theirs.state_dict().items():
        assert torch.equal(back[key], value), key
    theirs.load_state_dict(back, strict=True)
