"""Every segmentation config: its model, its recipe, its commands, its listing."""

import copy
import functools
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import configs_of
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import load_checkpoint
from warm import WarmPython

from mmmeta.models import MetaFormer
from mmmeta.weights.names import find
from mmmeta.weights.trained import TRAINED

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'configs' / 'segmentation'
load = functools.partial(configs_of.load, 'segmentation')
build = functools.partial(configs_of.build, 'segmentation')
NAMES = sorted(p.stem for p in FOLDER.glob('*.py'))
METAFILE = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
LISTED = configs_of.listed('segmentation')
docstring = functools.partial(configs_of.docstring, 'segmentation')
SHAPES = 'semantic_fpn_poolformer_s12_shapes'

# The published recipes' settings. The backbone: arch, drop path, blocks
# recomputed, attention, its window. The weights. mIoU, single- and multi-scale.
# fmt: off
POOL = [
    ('s12', 0.0, 'poolformer_s12.sail_in1k', 37.2),
    ('s24', 0.0, 'poolformer_s24.sail_in1k', 40.3),
    ('s36', 0.0, 'poolformer_s36.sail_in1k', 42.0),
    ('m36', 0.0, 'poolformer_m36.sail_in1k', 42.4),
    ('m48', 0.0, 'poolformer_m48.sail_in1k', 42.7),
]
S, B = 'uniformer_small.sensex_in1k', 'uniformer_base.sensex_in1k'
CP = [0, 0, 2, 0]
BACKBONES = {
    **{
        f'semantic_fpn_poolformer_{size}':
            (size, rate, None, None, None, weights, miou, None)
        for size, rate, weights, miou in POOL
    },
    'semantic_fpn_uniformer_small':
        ('small', 0.1, None, 'hybrid', 14, S, 46.3, None),
    'semantic_fpn_uniformer_small_global':
        ('small', 0.1, None, 'global', None, S, 46.6, None),
    'semantic_fpn_uniformer_small_global_test_w32':
        ('small', 0.1, None, 'window', 32, S, 45.6, None),
    'semantic_fpn_uniformer_small_global_test_h32':
        ('small', 0.1, None, 'hybrid', 32, S, 46.2, None),
    'semantic_fpn_uniformer_base':
        ('base', 0.2, None, 'hybrid', 14, B, 47.0, None),
    'semantic_fpn_uniformer_base_global':
        ('base', 0.2, None, 'global', None, B, 48.0, None),
    'semantic_fpn_uniformer_base_global_test_w32':
        ('base', 0.2, None, 'window', 32, B, 47.0, None),
    'semantic_fpn_uniformer_base_global_test_h32':
        ('base', 0.2, None, 'hybrid', 32, B, 47.7, None),
    'upernet_uniformer_small':
        ('small', 0.25, None, 'hybrid', 14, S, 46.9, 48.0),
    'upernet_uniformer_small_global':
        ('small', 0.25, None, 'global', None, S, 47.6, 48.5),
    'upernet_uniformer_small_global_test_w32':
        ('small', 0.25, None, 'window', 32, S, 46.6, 48.4),
    'upernet_uniformer_small_global_test_h32':
        ('small', 0.25, None, 'hybrid', 32, S, 47.0, 48.5),
    'upernet_uniformer_base':
        ('base', 0.4, CP, 'hybrid', 14, B, 48.9, 50.0),
    'upernet_uniformer_base_global':
        ('base', 0.4, CP, 'global', None, B, 50.0, 50.8),
    'upernet_uniformer_base_global_test_w32':
        ('base', 0.4, CP, 'window', 32, B, 49.1, 50.6),
    'upernet_uniformer_base_global_test_h32':
        ('base', 0.4, CP, 'hybrid', 32, B, 49.5, 50.7),
    'upernet_convformer_s18':
        ('s18', 0.3, None, None, None, 'convformer_s18.sail_in1k', 47.5, 48.6),
    'upernet_convformer_s36':
        ('s36', 0.3, None, None, None, 'convformer_s36.sail_in1k', 49.6, 50.7),
    'upernet_convformer_m36':
        ('m36', 0.3, None, None, None, 'convformer_m36.sail_in1k', 50.4, 51.3),
    'upernet_caformer_s18':
        ('s18', 0.3, None, None, None, 'caformer_s18.sail_in1k', 48.1, 48.9),
    'upernet_caformer_s36':
        ('s36', 0.3, None, None, None, 'caformer_s36.sail_in1k', 50.6, 50.8),
    'upernet_caformer_m36':
        ('m36', 0.3, None, None, None, 'caformer_m36.sail_in1k', 51.7, 51.7),
    'upernet_poolformer_s12':
        ('s12', 0.1, None, None, None, 'poolformer_s12.sail_in1k', None, None),
    'upernet_poolformer_s24':
        ('s24', 0.1, None, None, None, 'poolformer_s24.sail_in1k', None, None),
    'upernet_poolformer_s36':
        ('s36', 0.2, None, None, None, 'poolformer_s36.sail_in1k', None, None),
}
# The recipe: batch size, learning rate, weight decay, thousands of iterations, and
# between tests.
POOL_FPN = (32, 2e-4, 1e-4, 40, 4)
UNI_FPN = (32, 2e-4, 1e-4, 80, 4)
UNI_UPER = (16, 6e-5, 0.01, 160, 16)
META_UPER = (16, 1e-4, 0.05, 160, 16)
# fmt: on


def recipe(name: str) -> tuple:
    if name.startswith('semantic_fpn'):
        return POOL_FPN if 'poolformer' in name else UNI_FPN
    return UNI_UPER if 'uniformer' in name else META_UPER


def test_the_sweep_is_complete():
    assert len(NAMES) == 5 + 8 + 8 + 6 + 3 + 1
    assert sorted(LISTED) == NAMES
    assert sorted([*BACKBONES, SHAPES]) == NAMES


def test_collections_have_names_of_their_own():
    names = [
        collection['Name']
        for path in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
        for collection in yaml.safe_load((ROOT / path).read_text())['Collections']
    ]
    assert len(names) == len(set(names))
    ours = {collection['Name'] for collection in METAFILE['Collections']}
    assert {model['In Collection'] for model in LISTED.values()} == ours


# -- models ------------------------------------------------------------------

OUTSIDE = """
import functools, sys
from pathlib import Path
import mmengine.config.utils as utils
utils.load = functools.cache(utils.load)
import numpy as np
image = np.zeros((64, 96, 3), dtype=np.uint8)
names = sorted(p for p in Path(sys.argv[1]).glob('*.py'))
config = next(str(p) for p in names if p.stem == 'semantic_fpn_poolformer_s12')
assert 'mmmeta' not in sys.modules and 'mmseg' not in sys.modules
"""
STOCK = {
    'Config': """
from mmengine.config import Config
assert len([Config.fromfile(p) for p in names]) == 31
cfg = Config.fromfile(config)
assert cfg.model.type == 'EncoderDecoder'
left = [k for k, v in cfg.items() if type(v).__name__ in ('module', 'function')]
assert not left and 'importlib' not in cfg and 'mmmeta' not in cfg
cfg.dump('dumped.py')
assert Config.fromfile('dumped.py').to_dict() == cfg.to_dict()
""",
    'init_model': """
from mmseg.apis import inference_model, init_model
assert 'mmmeta' not in sys.modules
found = inference_model(init_model(config, device='cpu'), image)
assert found.pred_sem_seg.data.shape == (1, 64, 96)
""",
    'MMSegInferencer': """
from mmseg.apis import MMSegInferencer
assert 'mmmeta' not in sys.modules
found = MMSegInferencer(model=config, device='cpu')(image)
assert found['predictions'].shape == (64, 96)
""",
}


@pytest.fixture(scope='module')
def warm_python() -> Iterator[WarmPython]:
    with WarmPython('mmengine.runner', 'mmcv', 'torchvision', 'timm') as python:
        yield python


@pytest.mark.parametrize('api', STOCK)
def test_configs_are_read_where_nothing_has_imported_mmmeta(api, warm_python, tmp_path):
    done = warm_python.run(FOLDER, code=OUTSIDE + STOCK[api], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', BACKBONES)
def test_backbone_and_results(name):
    arch, drop_path, with_cp, attention, window, weights, miou, ms = BACKBONES[name]
    backbone = load(name).model.backbone
    assert backbone.type.removeprefix('mmmeta.').lower() in name.split('_')
    assert (backbone.arch, backbone.drop_path_rate) == (arch, drop_path)
    assert backbone.get('with_cp') == with_cp
    assert backbone.get('attention') == attention
    if window:
        assert backbone.window_size == window
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'mmmeta://{weights}'
    )
    assert (find(weights).input_size, find(weights).num_classes) == (224, 1000)
    assert 'frozen_stages' not in backbone
    assert 'norm_eval' not in backbone

    listed = LISTED[name]
    metrics = {'mIoU': miou, 'mIoU(ms+flip)': ms}
    metrics = {key: value for key, value in metrics.items() if value}
    found = [result['Metrics'] for result in listed['Results']]
    assert found == ([metrics] if metrics else [])
    assert listed['In Collection'] == f'{backbone.type[7:]}-ADE20K'
    title = docstring(name).splitlines()[0]
    assert (f': {miou} mIoU (' in title) == bool(miou)


# Windows of the eight blocks of stage 3.
ATTENTION = {
    '_global': [None] * 8,
    '_global_test_w32': [32] * 8,
    '_global_test_h32': [32, 32, 32, None] * 2,
}


def test_uniformer_s_attention_changes_no_key():
    models = [build(f'upernet_uniformer_small{end}') for end in ('', *ATTENTION)]
    keys = [list(model.state_dict()) for model in models]
    assert keys.count(keys[0]) == 4
    windows = [
        [block.token_mixer.window_size for block in model.backbone.stages[2].blocks]
        for model in models
    ]
    assert windows == [[14, 14, 14, None] * 2, *ATTENTION.values()]


def test_mmsegmentation_s_checkpoint_loads(tmp_path):
    import mmpretrain.models  # noqa: F401
    import mmseg.models

    stock = Path(mmseg.__file__).parent / '.mim/configs/poolformer'
    cfg = Config.fromfile(stock / 'fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py')
    init_default_scope('mmseg')
    theirs = MODELS.build(cfg.model).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save({'state_dict': theirs.state_dict()}, tmp_path / 'theirs.pth')

    ours = MODELS.build(copy.deepcopy(load('semantic_fpn_poolformer_s12').model))
    load_checkpoint(ours, str(tmp_path / 'theirs.pth'), strict=True)
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected, found = theirs(images), ours.eval()(images)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_weights_are_the_published_ones():
    trained = {name for name in NAMES if name in TRAINED}
    assert len(trained) == 5 + 1 + 3 * 4
    for name in NAMES:
        row = TRAINED.get(name)
        assert LISTED[name].get('Weights') == (row and row.sources[0].url), name


# -- recipes -----------------------------------------------------------------


@pytest.mark.parametrize('name', BACKBONES)
def test_recipe(name):
    cfg = load(name)
    batch_size, lr, weight_decay, iterations, interval = recipe(name)
    # Eight GPUs, no accumulation: the batch size that the learning rate is for.
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch_size)
    assert cfg.train_dataloader.batch_size * 8 == batch_size
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'
    assert cfg.train_cfg == dict(
        type='IterBasedTrainLoop',
        max_iters=iterations * 1000,
        val_interval=interval * 1000,
    )
    assert cfg.default_hooks.checkpoint.interval == interval * 1000
    assert not cfg.default_hooks.checkpoint.by_epoch
    wrapper = cfg.optim_wrapper
    assert wrapper.type == 'OptimWrapper'
    assert 'clip_grad' not in wrapper
    optimizer = wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', lr)
    assert optimizer.weight_decay == weight_decay
    assert optimizer.get('betas', (0.9, 0.999)) == (0.9, 0.999)
    # Leftovers of MMSegmentation's schedules.
    assert 'optimizer' not in cfg
    metadata = LISTED[name]['Metadata']
    assert metadata['Iterations'] == iterations * 1000
    assert metadata['Batch Size'] == batch_size


@pytest.mark.parametrize('name', BACKBONES)
def test_heads_and_test_mode(name):
    model = load(name).model
    assert model._scope_ == 'mmseg'
    assert model.pretrained is None
    assert model.data_preprocessor.size == (512, 512)
    head = model.decode_head
    assert (head.num_classes, head.dropout_ratio) == (150, 0.1)
    assert head.norm_cfg.type == 'SyncBN'
    weights = BACKBONES[name][5]
    dims = list(MetaFormer.archs[weights.split('.')[0]].dims)
    if name.startswith('semantic_fpn'):
        assert (head.type, head.channels) == ('FPNHead', 128)
        assert model.neck.in_channels == dims
        assert 'auxiliary_head' not in model
    else:
        aux = model.auxiliary_head
        assert (head.type, head.channels, head.in_channels) == ('UPerHead', 512, dims)
        assert (aux.in_channels, aux.in_index, aux.num_classes) == (dims[2], 2, 150)
        assert aux.loss_decode.loss_weight == 0.4
    slide = dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    whole = name.startswith('semantic_fpn') or 'uniformer' in name
    assert model.test_cfg == (dict(mode='whole') if whole else slide)


@pytest.mark.parametrize('name', BACKBONES)
def test_docstring(name):
    text = docstring(name)
    if '_test_' in name:
        train, test = '', ' CHECKPOINT'
        assert f'weights of {name.split("_test_")[0]}.py' in text
    else:
        train, test = ' --auto-scale-lr', ''
        assert f'Batch size {recipe(name)[0]}: on 8 GPUs' in text
    tool = 'test' if test else 'train'
    path = f'configs/segmentation/{name}.py'
    commands = {
        '8 GPUs: ': f'bash tools/dist_{tool}.sh {path}{test} 8',
        '1 GPU: ': f'python tools/{tool}.py {path}{test}{train}',
    }
    for start, command in commands.items():
        (line,) = (x for x in text.splitlines() if x.startswith(start))
        assert shlex.split(line.removeprefix(start)) == command.split()
    assert f', ADE20K {recipe(name)[3]}k: ' in text.splitlines()[0]
    sources = {
        'semantic_fpn_pool': '(sail-sg/poolformer)',
        'semantic_fpn_uni': '(Sense-X/UniFormer)',
        'upernet_uni': '(Sense-X/UniFormer)',
        'upernet_conv': '(MambaOut, table 3)',
        'upernet_ca': '(MambaOut, table 3)',
        'upernet_pool': 'no result is published',
    }
    (source,) = (v for k, v in sources.items() if name.startswith(k))
    assert source in text.splitlines()[0]


# Tensors without weight decay, counted by hand.
NO_DECAY = {
    # 18 blocks with two norms, four norms of the downsampling, four of the outputs;
    # all with biases.
    'upernet_uniformer_small': (18 * 2 + 4 + 4) * 2,
    'upernet_uniformer_base': (40 * 2 + 4 + 4) * 2,
    # 18 blocks with two norms and two StarReLU; two scales of the shortcut in the
    # last 12; eight more norms. No biases.
    'upernet_convformer_s18': 18 * (2 + 2) + 12 * 2 + 8,
    'upernet_convformer_s36': 36 * (2 + 2) + 21 * 2 + 8,
    # Attention in the last 12 or 21 has no StarReLU.
    'upernet_caformer_s18': 18 * (2 + 2) - 12 + 12 * 2 + 8,
    'upernet_caformer_m36': 36 * (2 + 2) - 21 + 21 * 2 + 8,
    # 12 blocks with two norms with biases and two layer scales; four more norms.
    'upernet_poolformer_s12': 12 * (2 * 2 + 2) + 4 * 2,
}
# Four pooled, one bottleneck, three lateral, three of the FPN, one more bottleneck:
# each a convolution without bias and a norm. The classifier. The auxiliary head: one
# and a classifier.
HEADS = (4 + 1 + 3 + 3 + 1) * 3 + 2 + 3 + 2


@pytest.mark.parametrize('name', NO_DECAY)
def test_parameter_groups_of_upernet(name):
    _, lr, weight_decay, _, _ = recipe(name)
    model = build(name)
    wrapper = build_optim_wrapper(model, load(name).optim_wrapper)
    assert type(wrapper) is OptimWrapper
    assert type(wrapper.optimizer) is torch.optim.AdamW
    names = {id(p): n for n, p in model.named_parameters()}
    groups = Counter()
    for group in wrapper.optimizer.param_groups:
        (parameter,) = group['params']
        key = names[id(parameter)]
        groups[group['lr'], group['weight_decay']] += 1
        if key.startswith('backbone'):
            free = 'norm' in key or key.split('.')[-1] in (
                *('scale', 'res_scale1', 'res_scale2'),
                *('layer_scale1', 'layer_scale2'),
            )
            assert (group['weight_decay'] == 0) == free, key
            assert group['lr'] == lr
        else:
            assert group['weight_decay'] == weight_decay, key
    heads = 0 if 'uniformer' in name else HEADS
    assert groups.pop((lr, 0.0)) == NO_DECAY[name]
    assert groups.pop((lr * 10.0, weight_decay), 0) == heads
    assert groups.pop((lr, weight_decay)) == len(names) - NO_DECAY[name] - heads
    assert not groups


@pytest.mark.parametrize(
    'name', ['semantic_fpn_poolformer_m36', 'semantic_fpn_uniformer_base']
)
def test_semantic_fpn_decays_every_parameter(name):
    model = build(name)
    wrapper = build_optim_wrapper(model, load(name).optim_wrapper)
    (group,) = wrapper.optimizer.param_groups
    assert (group['lr'], group['weight_decay']) == (2e-4, 1e-4)
    assert len(group['params']) == len(list(model.parameters()))


def learning_rates(name: str) -> dict[str, list[float]]:
    """Return the learning rates at every iteration."""
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    parts = {key: torch.nn.Linear(1, 1, bias=False) for key in ('backbone', 'head')}
    wrapper = build_optim_wrapper(torch.nn.ModuleDict(parts), cfg.optim_wrapper)
    groups = wrapper.optimizer.param_groups
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler, optimizer=wrapper))
        for scheduler in cfg.param_scheduler
    ]
    assert not any(scheduler.by_epoch for scheduler in schedulers)
    wrapper.step()  # otherwise PyTorch warns about the order
    rates = {'backbone': [], 'head': []}
    for _ in range(cfg.train_cfg.max_iters):
        rates['backbone'].append(groups[0]['lr'])
        rates['head'].append(groups[-1]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return rates


# By the formulas of MMCV 1, for which the recipes were published: the warm-up's factor,
# ratio + (1 - ratio) * i / warm-up, times poly's or the cosine's.
RATES = {
    'semantic_fpn_poolformer_s12': {
        0: 2e-4,
        1: 2e-4 * (1 - 1 / 40000) ** 0.9,
        10000: 2e-4 * 0.75**0.9,
        20000: 1.07177e-4,  # 0.5 ** 0.9 is 0.535887
        36000: 2e-4 * 0.1**0.9,
    },
    'semantic_fpn_uniformer_small': {
        0: 2e-5,
        500: 2e-4 * 0.55 * (1 + math.cos(math.pi * 500 / 80000)) / 2,
        1000: 2e-4 * (1 + math.cos(math.pi / 80)) / 2,
        40000: 1e-4,
        60000: 2.92893e-5,  # 1 - 0.5 ** 0.5 is 0.292893
        79000: 2e-4 * (1 - math.cos(math.pi / 80)) / 2,
    },
    'upernet_uniformer_small': {
        0: 6e-11,
        750: 3e-5 * (1 - 750 / 160000),
        1500: 6e-5 * (1 - 1500 / 160000),
        80000: 3e-5,
        120000: 1.5e-5,
    },
    'upernet_caformer_s18': {
        0: 1e-10,
        750: 5e-5 * (1 - 750 / 160000),
        1500: 1e-4 * (1 - 1500 / 160000),
        80000: 5e-5,
        144000: 1e-5,
    },
}


@pytest.mark.parametrize('name', RATES)
def test_learning_rates(name):
    rates = learning_rates(name)
    times = 10 if name == 'upernet_caformer_s18' else 1
    for step, rate in RATES[name].items():
        assert rates['backbone'][step] == pytest.approx(rate, rel=1e-3), step
        assert rates['head'][step] == pytest.approx(times * rate, rel=1e-3), step
    assert max(rates['backbone']) <= recipe(name)[1]
    assert 0 <= rates['backbone'][-1] < 1e-4 * recipe(name)[1]
