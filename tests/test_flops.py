"""Parameters and multiply-accumulates equal the published ones."""

import pytest
import torch

from mmmeta import create_model
from mmmeta.commands.flops.counting import count
from mmmeta.weights.zoo import ZOO

# Published: million parameters, 10^9 multiply-accumulates at 224 and at 384.
# PoolFormer: README of sail-sg/poolformer; the baselines: README of
# sail-sg/metaformer; UniFormer: README of Sense-X/UniFormer.
PUBLISHED = {
    'poolformer_s12': ('12', '1.8', None),
    'poolformer_s24': ('21', '3.4', None),
    'poolformer_s36': ('31', '5.0', None),
    'poolformer_m36': ('56', '8.8', None),
    'poolformer_m48': ('73', '11.6', None),
    **{
        f'{family}_{size}': (params, macs, None)
        for family in ('identityformer', 'poolformerv2')
        for size, params, macs in (
            ('s12', '11.9', '1.8'),
            ('s24', '21.3', '3.4'),
            ('s36', '30.8', '5.0'),
            ('m36', '56.1', '8.8'),
            ('m48', '73.3', '11.5'),
        )
    },
    'randformer_s12': ('11.9', '1.9', None),
    'randformer_s24': ('21.3', '3.5', None),
    'randformer_s36': ('30.8', '5.2', None),
    'randformer_m36': ('56.1', '9.0', None),
    'randformer_m48': ('73.3', '11.9', None),
    'convformer_s18': ('27', '3.9', '11.6'),
    'convformer_s36': ('40', '7.6', '22.4'),
    'convformer_m36': ('57', '12.8', '37.7'),
    'convformer_b36': ('100', '22.6', '66.5'),
    'caformer_s18': ('26', '4.1', '13.4'),
    'caformer_s36': ('39', '8.0', '26.0'),
    'caformer_m36': ('56', '13.2', '42.0'),
    'caformer_b36': ('99', '23.2', '72.2'),
    'uniformer_small': ('22', '3.6', None),
    'uniformer_small_plus': ('24', '4.2', None),
    'uniformer_small_plus_dim64': ('24', '4.2', None),
    'uniformer_base': ('50', '8.3', None),
    'uniformer_base_ls': ('50', '8.3', None),
}
FROZEN = {'s12': '0.2', 's24': '0.5', 's36': '0.7', 'm36': '0.7', 'm48': '0.9'}


def printed(value: float, like: str) -> str:
    """Round `value` to as many digits as the published figure."""
    return f'{value:.{len(like.partition(".")[2])}f}'


def test_every_model_has_published_figures():
    assert set(PUBLISHED) == {row.arch for row in ZOO.values()}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_figures(name, undrawn):
    params, macs_224, macs_384 = PUBLISHED[name]
    with torch.device('meta'):
        model = create_model(name)
    cost = count(model)
    assert printed(cost.params / 1e6, params) == params
    with_norms = name.startswith(('poolformer_', 'uniformer_'))
    macs = cost.macs + (cost.norm_macs if with_norms else 0)
    assert printed(macs / 1e9, macs_224) == macs_224
    if macs_384 is not None:
        assert printed(count(model, (384, 384)).macs / 1e9, macs_384) == macs_384
    family, _, size = name.partition('_')
    if family == 'randformer':
        assert printed(cost.frozen / 1e6, '0.0') == FROZEN[size]
    else:
        assert cost.frozen == 0


def test_counting_leaves_the_model_as_it_was():
    with torch.device('meta'):
        model = create_model('poolformer_s12')
    model.train()
    assert count(model) == count(model)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
