"""What MMEngine's runner offers, with every family, beside plain PyTorch."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.hosts.config import check_constructor
from mmmeta.models import FAMILIES
from mmmeta.models.build import classifier_config

ARCH = dict(depths=(1, 1, 2, 1), dims=(32, 64, 64, 64))
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
RATE = 0.1


class Model(BaseModel):
    """Draws the maps of a backbone towards one number for each."""

    def __init__(self, family: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        # Batch norms would see other batches where these are split.
        config = dict(type=f'mmmeta.{family}', arch=ARCH, norm_eval=True)
        self.backbone = MODELS.build(config)
        self.heads = nn.ModuleList(nn.Conv2d(dim, 1, 1) for dim in ARCH['dims'])

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        maps = self.backbone(inputs)
        pairs = zip(self.heads, maps, strict=True)
        return dict(loss=sum(((head(x) - 1) ** 2).mean() for head, x in pairs))


def trained(family: str, folder: Path, **settings) -> tuple[Model, Runner]:
    """Train for two iterations on half of the images each."""
    init_default_scope('mmengine')
    optimizer = dict(type='SGD', lr=RATE)
    runner = Runner(
        Model(family),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=[dict(inputs=image) for image in IMAGES],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=optimizer, **settings.pop('wrapper', {})),
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='ERROR',
        experiment_name=folder.name,
        **settings,
    )
    runner.train()
    return runner.model, runner


def reference(family: str, batches: list[Tensor]) -> Model:
    model = Model(family).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for batch in batches:
        optimizer.zero_grad()
        model(batch)['loss'].backward()
        optimizer.step()
    return model


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_accumulated_gradients_and_averaged_weights(family, tmp_path):
    """Two halves give the step of the whole; the average is of before and after."""
    model, runner = trained(
        family,
        tmp_path,
        wrapper=dict(accumulative_counts=2),
        custom_hooks=[dict(type='EMAHook', momentum=0.25)],
    )
    before, after = Model(family), reference(family, [IMAGES])
    assert_same(model, after)
    moved = [
        name
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    ]
    assert len(moved) > 0.9 * len(dict(after.named_parameters()))
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    expected = copy.deepcopy(before)
    with torch.no_grad():
        for average, new in zip(expected.parameters(), after.parameters(), strict=True):
            average.lerp_(new, 0.25)
    assert_same(hook.ema_model.module, expected)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['RandFormer', 'UniFormer'])
def test_compiled_steps(family, tmp_path):
    torch._dynamo.reset()
    model, _ = trained(
        family, tmp_path, cfg=ConfigDict(compile=dict(backend='aot_eager'))
    )
    assert_same(model, reference(family, [IMAGES[:2], IMAGES[2:]]))
    torch._dynamo.reset()


@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.__name__)
def test_averaged_scores_of_augmented_images(family):
    from mmpretrain.structures import DataSample

    init_default_scope('mmpretrain')
    config = classifier_config(family, ARCH, num_classes=5)
    model = MODELS.build(
        dict(type='AverageClsScoreTTA', module=config, _scope_='mmpretrain')
    ).eval()
    for head in (m for m in model.modules() if isinstance(m, nn.Linear)):
        nn.init.xavier_normal_(head.weight)
    views = [IMAGES[0] * 50 + 120, (IMAGES[0] * 50 + 120).flip(2)]
    samples = [DataSample() for _ in views]
    data = dict(inputs=[[v] for v in views], data_samples=[[s] for s in samples])
    with torch.no_grad():
        (found,) = model.test_step(data)
        normed = model.module.data_preprocessor(dict(inputs=torch.stack(views)))
        expected = model.module(normed['inputs']).softmax(1)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    torch.testing.assert_close(found.pred_score, expected.mean(0))


@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.__name__)
def test_learning_rates_that_decay_by_layer(family):
    """The stem has the lowest, each block a higher one, the head the one given."""
    init_default_scope('mmpretrain')
    config = classifier_config(family, ARCH, num_classes=5)
    model = MODELS.build(dict(config, _scope_='mmpretrain'))
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            constructor='LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.0),
        ),
    )
    rates = {g['param_name']: g['lr'] for g in wrapper.optimizer.param_groups}
    assert rates.keys() == dict(model.named_parameters()).keys()
    blocks = ['0.blocks.0', '1.blocks.0', '2.blocks.0', '2.blocks.1', '3.blocks.0']
    for name, rate in rates.items():
        layer = len(blocks) + 1  # norms of the output and the head
        if 'stages.0.downsample' in name:
            layer = 0
        elif '.downsample.' in name:
            layer = 1 + [b[0] for b in blocks].index(name.split('.')[2])
        elif '.blocks.' in name:
            layer = 1 + next(i for i, b in enumerate(blocks) if f'stages.{b}.' in name)
        assert rate == 0.5 ** (len(blocks) + 1 - layer), name


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_constructors_that_know_other_backbones_alone(scope):
    """Theirs end in an error without a word, so that a line comes before it."""
    name = 'LearningRateDecayOptimizerConstructor'
    config = ConfigDict(
        model=dict(backbone=dict(type='mmmeta.PoolFormer')),
        optim_wrapper=dict(constructor=name),
        default_scope=scope,
    )
    for constructor in (name, f'{scope}.{name}'):
        config.optim_wrapper.constructor = constructor
        with pytest.raises(UserError, match=f'{name} knows .* not mmmeta.PoolFormer'):
            check_constructor(config)
    config.model.backbone.type = 'mmpretrain.ConvNeXt'
    check_constructor(config)
    check_constructor(ConfigDict())
