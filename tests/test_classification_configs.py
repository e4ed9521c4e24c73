"""Every classification config: its model, its recipe, its commands, its listing."""

import argparse
import copy
import functools
import math
import shlex
from pathlib import Path

import configs_of
import numpy as np
import pytest
import torch
from mmengine.config import DictAction
from mmengine.dataset import Compose
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from mmmeta.models import FAMILIES
from mmmeta.models.build import classifier_config
from mmmeta.weights import scheme
from mmmeta.weights.names import find
from mmmeta.weights.state import parse, to_layout

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'configs' / 'classification'
load = functools.partial(configs_of.load, 'classification')
build = functools.partial(configs_of.build, 'classification')
NAMES = sorted(p.stem for p in FOLDER.glob('*.py'))
LISTED = configs_of.listed('classification')

# The published scripts' settings. PoolFormer and UniFormer: batch size,
# learning rate, drop path, shorter side in the test.
# fmt: off
AT_1024 = {
    'poolformer_s12': (1024, 1e-3, 0.1, 248),
    'poolformer_s24': (1024, 1e-3, 0.1, 248),
    'poolformer_s36': (1024, 1e-3, 0.2, 248),
    'poolformer_m36': (1024, 1e-3, 0.3, 235),
    'poolformer_m48': (1024, 1e-3, 0.4, 235),
    'uniformer_small': (1024, 1e-3, 0.1, 256),
    'uniformer_small_plus': (1024, 1e-3, 0.1, 256),
    'uniformer_small_plus_dim64': (1024, 1e-3, 0.1, 256),
    'uniformer_base': (1024, 8e-4, 0.3, 256),
    'uniformer_base_ls': (1024, 8e-4, 0.3, 256),
}
# The baselines: optimizer, batch size, learning rate, warm-up epochs, total epochs,
# drop path, head dropout, side of the image.
BASELINES = {
    'identityformer_s12': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'identityformer_s24': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'identityformer_s36': ('AdamW', 4096, 4e-3, 5, 300, 0.2, 0.0, 224),
    'identityformer_m36': ('AdamW', 4096, 4e-3, 5, 300, 0.3, 0.0, 224),
    'identityformer_m48': ('AdamW', 4096, 4e-3, 5, 300, 0.4, 0.0, 224),
    'randformer_s12': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'randformer_s24': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'randformer_s36': ('AdamW', 4096, 4e-3, 5, 300, 0.2, 0.0, 224),
    'randformer_m36': ('AdamW', 4096, 4e-3, 5, 300, 0.3, 0.0, 224),
    'randformer_m48': ('AdamW', 4096, 4e-3, 5, 300, 0.3, 0.0, 224),
    'poolformerv2_s12': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'poolformerv2_s24': ('AdamW', 4096, 4e-3, 5, 300, 0.1, 0.0, 224),
    'poolformerv2_s36': ('AdamW', 4096, 4e-3, 5, 300, 0.2, 0.0, 224),
    'poolformerv2_m36': ('AdamW', 4096, 4e-3, 5, 300, 0.3, 0.0, 224),
    'poolformerv2_m48': ('AdamW', 4096, 4e-3, 5, 300, 0.4, 0.0, 224),
    'convformer_s18': ('AdamW', 4096, 4e-3, 20, 300, 0.2, 0.0, 224),
    'convformer_s36': ('AdamW', 4096, 4e-3, 20, 300, 0.3, 0.0, 224),
    'convformer_m36': ('AdamW', 4096, 4e-3, 20, 300, 0.4, 0.0, 224),
    'convformer_b36': ('AdamW', 4096, 4e-3, 20, 300, 0.6, 0.0, 224),
    'caformer_s18': ('mmpretrain.Lamb', 4096, 8e-3, 20, 300, 0.15, 0.0, 224),
    'caformer_s36': ('mmpretrain.Lamb', 4096, 8e-3, 20, 300, 0.3, 0.4, 224),
    'caformer_m36': ('mmpretrain.Lamb', 4096, 8e-3, 20, 300, 0.4, 0.4, 224),
    'caformer_b36': ('mmpretrain.Lamb', 4096, 8e-3, 20, 300, 0.6, 0.5, 224),
    'convformer_s18_384': ('AdamW', 1024, 5e-5, 0, 30, 0.3, 0.4, 384),
    'convformer_s36_384': ('AdamW', 1024, 5e-5, 0, 30, 0.5, 0.4, 384),
    'convformer_m36_384': ('AdamW', 1024, 5e-5, 0, 30, 0.8, 0.5, 384),
    'convformer_b36_384': ('AdamW', 1024, 5e-5, 0, 30, 0.8, 0.5, 384),
    'caformer_s18_384': ('mmpretrain.Lamb', 1024, 1e-4, 0, 30, 0.3, 0.4, 384),
    'caformer_s36_384': ('mmpretrain.Lamb', 1024, 1e-4, 0, 30, 0.5, 0.4, 384),
    'caformer_m36_384': ('mmpretrain.Lamb', 1024, 1e-4, 0, 30, 0.7, 0.4, 384),
    'caformer_b36_384': ('mmpretrain.Lamb', 1024, 1e-4, 0, 30, 0.8, 0.5, 384),
}
# fmt: on


def published(name: str) -> str:
    """Return the zoo's name of the checkpoint that a config uses."""
    if name.startswith('uniformer'):
        return f'{name}.sensex_in1k'
    arch = name.removesuffix('_384')
    return f'{arch}.sail_in1k' + ('_384' if arch != name else '')


def test_the_sweep_is_complete():
    assert len(NAMES) == 33 + 8
    assert sorted(LISTED) == NAMES
    assert sorted([*AT_1024, *BASELINES]) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_model_is_the_family_s_classifier(name):
    cfg = load(name)
    arch = name.removesuffix('_384')
    family, size = arch.split('_', 1)
    cls = next(c for c in FAMILIES if c.family.lower() == family)
    rate = cfg.model.backbone.drop_path_rate
    expected = classifier_config(cls, size, drop_path_rate=rate)

    model = cfg.model.to_dict()
    assert model['_scope_'] == 'mmpretrain'
    assert model['type'] == expected['type']
    assert model['backbone'] == expected['backbone']
    assert model['data_preprocessor'] == expected['data_preprocessor']
    model['neck'].pop('dropout', None)
    assert model['neck'] == expected['neck']
    assert model['head'].pop('loss') == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    assert model['head'] == expected['head']


@pytest.mark.parametrize('name', NAMES)
def test_listing(name):
    listed, cfg, row = LISTED[name], load(name), find(published(name))
    metadata = listed['Metadata']
    assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    assert metadata['Epochs'] == cfg.train_cfg.max_epochs
    assert listed['Results'][0]['Metrics'] == {'Top 1 Accuracy': row.top1}
    assert listed['Weights'] == row.sources[0].url


@pytest.mark.parametrize('name', NAMES)
def test_docstring(name):
    cfg, row = load(name), find(published(name))
    text = configs_of.docstring('classification', name)
    side = row.input_size
    assert f'ImageNet-1k at {side}x{side}: {row.top1} % top-1' in text
    assert row.page.removeprefix('https://github.com/') in text
    batch_size = cfg.auto_scale_lr.base_batch_size
    assert f'Batch size {batch_size}: on 8 GPUs {batch_size // 8} each' in text

    lines = text.splitlines()
    path = f'configs/classification/{name}.py'
    starts = {
        8: f'8 GPUs: bash tools/dist_train.sh {path} 8',
        1: f'1 GPU:  python tools/train.py {path}',
    }
    for gpus, start in starts.items():
        (line,) = (line for line in lines if line.startswith(start))
        run = copy.deepcopy(cfg)
        run.merge_from_dict(read_options(line.removeprefix(start)))
        steps = run.optim_wrapper.get('accumulative_counts', 1)
        assert gpus * run.train_dataloader.batch_size * steps == batch_size
        for hook in run.get('custom_hooks', []):
            assert hook.interval == steps


def read_options(text: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(shlex.split(text)).cfg_options


@pytest.mark.parametrize('name', AT_1024)
def test_recipe_of_poolformer_and_uniformer(name):
    batch_size, lr, drop_path, shorter = AT_1024[name]
    check_recipe(name, 'AdamW', batch_size, lr, 5, 300, drop_path, 0.0, 224, shorter)
    repeated = load(name).train_dataloader.sampler.type == 'RepeatAugSampler'
    assert repeated == name.startswith('uniformer')


@pytest.mark.parametrize('name', BASELINES)
def test_recipe_of_baselines(name):
    side = BASELINES[name][-1]
    check_recipe(name, *BASELINES[name], shorter=side)
    assert load(name).train_dataloader.sampler.type == 'DefaultSampler'


def check_recipe(
    name, optimizer, batch_size, lr, warmup, epochs, drop_path, dropout, side, shorter
):
    cfg = load(name)
    wrapper = cfg.optim_wrapper
    assert wrapper.to_dict() == dict(
        optimizer=dict(type=optimizer, lr=lr, weight_decay=0.05),
        paramwise_cfg=dict(flat_decay_mult=0.0),
    )
    # Eight GPUs, no accumulation: the batch size that the learning rate is for.
    assert cfg.auto_scale_lr.base_batch_size == batch_size
    assert cfg.train_dataloader.batch_size * 8 == batch_size
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.model.neck.get('dropout', 0.0) == dropout
    if warmup:
        linear, cosine = cfg.param_scheduler
        assert linear.type == 'LinearLR'
        assert (linear.begin, linear.end) == (0, warmup)
        assert linear.start_factor * lr == pytest.approx(1e-6)
        assert cosine.type == 'CosineAnnealingLR'
        assert (cosine.begin, cosine.end, cosine.eta_min) == (warmup, epochs, 1e-5)
    else:
        assert cfg.param_scheduler is None

    _, crop, flip, augment, erase, _ = cfg.train_dataloader.dataset.pipeline
    assert (crop.type, crop.scale) == ('RandomResizedCrop', side)
    assert flip.prob == 0.5
    assert augment.policies == 'timm_increasing'
    assert (augment.num_policies, augment.total_level) == (2, 10)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert (erase.erase_prob, erase.mode) == (0.25, 'rand')
    _, resize, center, _ = cfg.val_dataloader.dataset.pipeline
    assert (resize.type, resize.scale, resize.edge) == ('ResizeEdge', shorter, 'short')
    assert (center.type, center.crop_size) == ('CenterCrop', side)
    for transform in (crop, resize):
        assert (transform.backend, transform.interpolation) == ('pillow', 'bicubic')
    assert cfg.test_dataloader == cfg.val_dataloader
    assert shorter == math.floor(side / find(published(name)).crop_pct)

    if epochs == 30:
        assert cfg.model.train_cfg is None
        (hook,) = cfg.custom_hooks
        assert hook.type == 'EMAHook'
        assert 1 - hook.momentum == pytest.approx(0.9999)
        # From the classifier trained at 224x224, of the same arch.
        assert cfg.load_from == f'mmmeta://{name.removesuffix("_384")}.sail_in1k'
        assert find(cfg.load_from.removeprefix('mmmeta://')).num_classes == 1000
    else:
        assert cfg.model.train_cfg.augments == [
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
        assert cfg.get('custom_hooks') is None
        assert cfg.load_from is None
    assert 'init_cfg' not in cfg.model.backbone


EPOCH = 10  # iterations


def learning_rates(name: str) -> list[float]:
    """Return the learning rate at every iteration."""
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    wrapper = build_optim_wrapper(torch.nn.Linear(2, 2), cfg.optim_wrapper)
    schedulers = [build_scheduler(dict(s), wrapper) for s in cfg.param_scheduler or ()]
    rates = []
    for step in range(cfg.train_cfg.max_epochs * EPOCH):
        rates.append(wrapper.param_groups[0]['lr'])
        wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % EPOCH == 0:
                scheduler.step()
    return rates


def build_scheduler(cfg: dict, wrapper: OptimWrapper):
    cls = PARAM_SCHEDULERS.get(cfg.pop('type'))
    if cfg.pop('convert_to_iter_based', False):
        return cls.build_iter_from_epoch(wrapper, **cfg, epoch_length=EPOCH)
    return cls(wrapper, **cfg)


@pytest.mark.parametrize(
    ('name', 'lr'),
    [('poolformer_s12', 1e-3), ('uniformer_small', 1e-3), ('uniformer_base', 8e-4)]
    + [(f'{f}_s12', 4e-3) for f in ('identityformer', 'randformer', 'poolformerv2')],
)
def test_learning_rates_after_5_epochs_of_warmup(name, lr):
    rates = learning_rates(name)
    # The cosine takes 295 epochs; a fifth of it is 59, and cos(pi/5) is 0.809017.
    assert rates[0] == pytest.approx(1e-6)
    assert rates[7] == pytest.approx(1e-6 + (lr - 1e-6) / 7)
    assert rates[5 * EPOCH - 1] == pytest.approx(lr)
    assert rates[6 * EPOCH - 1] == pytest.approx(lr)
    expected = 1e-5 + (lr - 1e-5) * (1 + 0.809017) / 2
    assert rates[64 * EPOCH] == pytest.approx(expected, rel=1e-6)
    assert rates[64 * EPOCH] == rates[65 * EPOCH - 1]
    assert rates[-1] == pytest.approx(1e-5, rel=0.03)
    assert max(rates) == pytest.approx(lr)


@pytest.mark.parametrize(
    ('name', 'lr'), [('convformer_s18', 4e-3), ('caformer_s18', 8e-3)]
)
def test_learning_rates_after_20_epochs_of_warmup(name, lr):
    rates = learning_rates(name)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[20 * EPOCH - 1] == pytest.approx(lr)
    # The cosine takes 280 epochs: halfway it is at the mean.
    assert rates[160 * EPOCH] == pytest.approx((lr + 1e-5) / 2)
    assert rates[-1] == pytest.approx(1e-5, rel=0.03)


@pytest.mark.parametrize(
    ('name', 'lr'), [('convformer_s18_384', 5e-5), ('caformer_s18_384', 1e-4)]
)
def test_learning_rate_of_fine_tuning_is_constant(name, lr):
    rates = learning_rates(name)
    assert len(rates) == 30 * EPOCH
    assert set(rates) == {lr}


# Tensors with weight decay and without, counted by hand. Every classifier has four
# convolutions between stages with biases (4 + 4) and a last layer (1 + 1).
DECAY = {
    # 12 blocks: two layers of the MLP; their biases, two norms, two layer scales;
    # the final norm.
    'poolformer_s12': (12 * 2 + 4 + 1, 12 * (2 + 4 + 2) + 4 + 2 + 1),
    # 12 blocks: two layers; two norms without bias, StarReLU. Two scales of the
    # shortcut in the last 8; four norms of the downsampling; the neck's norm.
    'identityformer_s12': (29, 12 * (2 + 2) + 8 * 2 + 4 + 4 + 2 + 1),
    'randformer_s12': (29, 75),
    'poolformerv2_s12': (29, 75),
    # 18 blocks: three layers of the mixer, two of the MLP; two norms, two StarReLU.
    # Scales in the last 12; the neck's layer with bias and two norms.
    'convformer_s18': (18 * 5 + 4 + 1 + 1, 18 * (2 + 4) + 12 * 2 + 4 + 4 + 5 + 1),
    # Attention in the last 12: two layers of the mixer, no StarReLU in it.
    'caformer_s18': (
        6 * 5 + 12 * 4 + 4 + 1 + 1,
        6 * 6 + 12 * 4 + 12 * 2 + 4 + 4 + 5 + 1,
    ),
    # 7 blocks of convolutions: position, three of the mixer, two of the MLP, all with
    # biases, and two norms; 11 of attention: two of the mixer. Norms of the
    # downsampling with biases; the final norm.
    'uniformer_small': (
        7 * 6 + 11 * 5 + 4 + 1,
        7 * (6 + 4) + 11 * (5 + 4) + 4 + 8 + 2 + 1,
    ),
    # 13 and 27 blocks, the latter with two layer scales.
    'uniformer_base_ls': (
        13 * 6 + 27 * 5 + 4 + 1,
        13 * (6 + 4) + 27 * (5 + 4 + 2) + 4 + 8 + 2 + 1,
    ),
}


@pytest.mark.parametrize('name', DECAY)
def test_one_dimensional_parameters_have_no_weight_decay(name):
    model = build(name)
    wrapper = build_optim_wrapper(model, load(name).optim_wrapper)
    assert type(wrapper) is OptimWrapper
    decay = {0.05: 0, 0.0: 0}
    groups = wrapper.optimizer.param_groups
    for group in groups:
        (parameter,) = group['params']
        decay[group['weight_decay']] += 1
        assert (group['weight_decay'] == 0) == (parameter.ndim == 1)
        assert group['lr'] == groups[0]['lr']
    assert (decay[0.05], decay[0.0]) == DECAY[name]
    assert sum(decay.values()) == len(list(model.parameters()))
    if name == 'caformer_s18':
        # timm's defaults, which the published recipe does not change.
        defaults = wrapper.optimizer.defaults
        assert (defaults['max_grad_norm'], defaults['eps']) == (1.0, 1e-6)
        assert not defaults['always_adapt']


@pytest.mark.parametrize('name', ['convformer_s18_384', 'caformer_s18_384'])
def test_load_from_has_the_whole_classifier(name, tmp_path, monkeypatch):
    model = build(name)
    target = {k: v.shape for k, v in model.state_dict().items()}
    empty = {k: torch.empty(shape) for k, shape in target.items() if '.' in k}
    file = tmp_path / 'official.pth'
    torch.save(to_layout(parse(empty), 'sail-sg/metaformer'), file)
    asked = []
    monkeypatch.setattr(scheme, 'locate', lambda n: asked.append(n) or file)

    loaded = CheckpointLoader.load_checkpoint(load(name).load_from, 'cpu', None)
    assert asked == [load(name).load_from]
    found = {k: v.shape for k, v in loaded['state_dict'].items()}
    assert found == target
    assert {'head.fc.weight', 'neck.fc1.weight', 'neck.norm.weight'} <= set(found)


@pytest.mark.parametrize(
    'name', ['poolformer_m36', 'uniformer_small', 'caformer_s18_384']
)
def test_pipelines_run(name):
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    side = cfg.test_pipeline[2].crop_size
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.pipeline[0].type == 'LoadImageFromFile'
        # Without reading: the image is there already.
        pipeline = Compose(loader.dataset.pipeline[1:])
        data = pipeline(
            dict(img=image, img_shape=image.shape[:2], ori_shape=(300, 400), gt_label=1)
        )
        assert data['inputs'].shape == (3, side, side)
        assert data['inputs'].dtype == torch.uint8


@pytest.mark.parametrize('name', ['poolformer_s12', 'caformer_s18_384'])
def test_a_training_step(name):
    from mmpretrain.structures import DataSample

    cfg = load(name)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.head.fc.weight.clone()
    data = dict(
        inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2,
        data_samples=[DataSample().set_gt_label(i) for i in (1, 2)],
    )
    losses = model.train_step(data, wrapper)
    # The loss for 1000 equally likely classes.
    assert losses['loss'].item() == pytest.approx(math.log(1000), abs=1.5)
    assert not torch.equal(model.head.fc.weight, before)
