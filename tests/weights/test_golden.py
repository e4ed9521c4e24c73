"""Official checkpoints give the reference's recorded outputs."""

import pytest
import torch
from torch import nn

import mmmeta
from mmmeta.models import FAMILIES
from mmmeta.models.fast import FastBlock
from mmmeta.models.metaformer import MetaFormerBlock
from mmmeta.registry import MODELS

TOLERANCE = 1e-4  # of the output's standard deviation
DEEP = ('s24', 's36', 'm36', 'b36')  # more blocks of the same kinds
FAMILY = {family.family.lower(): family.__name__ for family in FAMILIES}


def _options(case: dict) -> tuple:
    names = ('fork_last3', 'attention', 'window_size')
    return tuple((name, case[name]) for name in names if name in case)


def test_golden_files_cover_the_families(golden_names):
    assert len(golden_names) == 22
    assert {name.split('_')[0] for name in golden_names} == set(FAMILY)


def test_outputs_equal_the_recorded(golden_name, golden, tmp_path, undrawn):
    """With the fast blocks; if not deep, optimized and with the plain blocks too."""
    file = golden(golden_name)
    path = tmp_path / f'{golden_name}.pth'
    torch.save(file.checkpoint(), path)
    kinds: dict[tuple, list[dict]] = {}
    for case in file.cases:
        kinds.setdefault((case['kind'], _options(case)), []).append(case)
    deep = golden_name.endswith(DEEP)
    seen = 0
    for (kind, options), cases in kinds.items():
        built = _load(file.arch, kind, dict(options), str(path)).eval()
        models = dict(fast=built)
        if not deep:
            models |= dict(optimized=mmmeta.optimize(built), plain=built)
        for name, model in models.items():
            if name == 'plain':
                _make_plain(built)
            for case in cases:
                with torch.no_grad():
                    outputs = model(file.image(case))
                outputs = [outputs] if kind == 'logits' else list(outputs)
                assert file.worst(case, outputs) < TOLERANCE, (name, case)
                seen += 1
    assert seen == (1 if deep else 3) * len(file.cases) >= 1


def _make_plain(model: nn.Module) -> None:
    """Replace the blocks by those of `fast=False`, with the same parameters."""
    blocks = [module for module in model.modules() if type(module) is FastBlock]
    assert blocks
    for block in blocks:
        block.__class__ = MetaFormerBlock


def _load(arch: str, kind: str, options: dict, path: str) -> nn.Module:
    if kind == 'logits':
        return mmmeta.create_model(arch, checkpoint=path)
    family, _, size = arch.partition('_')
    model = MODELS.build(
        dict(
            type=f'mmmeta.{FAMILY[family]}',
            arch=size,
            out_norm=kind == 'features',
            init_cfg=dict(type='Pretrained', checkpoint=path),
            **options,
        )
    )
    model.init_weights()
    return model


@pytest.mark.parametrize('arch', ['poolformer_s12', 'convformer_s18'])
def test_a_wrong_weight_is_seen(arch, golden):
    file = golden(arch)
    state = file.checkpoint()
    key = next(k for k in state if k.endswith('mlp.fc2.weight'))
    state[key] = state[key] * 1.1
    model = mmmeta.create_model(arch, checkpoint=state).eval()
    case = next(case for case in file.cases if case['kind'] == 'logits')
    with torch.no_grad():
        error = file.worst(case, [model(file.image(case))])
    assert error > 10 * TOLERANCE
