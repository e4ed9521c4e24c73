"""Official checkpoints give the reference's recorded outputs."""

import pytest
import torch

import mmmeta
from mmmeta.models import FAMILIES
from mmmeta.registry import MODELS

TOLERANCE = 1e-4  # of the output's standard deviation
FAMILY = {family.family.lower(): family.__name__ for family in FAMILIES}


def _options(case: dict) -> tuple:
    names = ('fork_last3', 'attention', 'window_size')
    return tuple((name, case[name]) for name in names if name in case)


def test_golden_files_cover_the_families(golden_names):
    assert len(golden_names) == 22
    assert {name.split('_')[0] for name in golden_names} == set(FAMILY)


@pytest.mark.parametrize('optimised', [False, True], ids=['plain', 'optimised'])
def test_outputs_equal_the_recorded(golden_name, golden, tmp_path, optimised):
    file = golden(golden_name)
    path = tmp_path / f'{golden_name}.pth'
    torch.save(file.checkpoint(), path)
    family, _, size = file.arch.partition('_')
    prepare = mmmeta.optimize if optimised else lambda model: model.eval()
    models, seen = {}, 0
    for case in file.cases:
        kind = (case['kind'], _options(case))
        if kind not in models and case['kind'] == 'logits':
            model = prepare(mmmeta.create_model(file.arch, checkpoint=path))
            models[kind] = lambda x, model=model: [model(x)]
        elif kind not in models:
            model = MODELS.build(
                dict(
                    type=f'mmmeta.{FAMILY[family]}',
                    arch=size,
                    out_norm=case['kind'] == 'features',
                    init_cfg=dict(type='Pretrained', checkpoint=str(path)),
                    **dict(_options(case)),
                )
            )
            model.init_weights()
            models[kind] = prepare(model)
        with torch.no_grad():
            error = file.worst(case, list(models[kind](file.image(case))))
        assert error < TOLERANCE, case
        seen += 1
    assert seen == len(file.cases) >= 1


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
