"""Every detection config: its model, its recipe, its commands, its listing."""

import argparse
import copy
import functools
import shlex
from pathlib import Path

import configs_of
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

from mmmeta.weights.names import find
from mmmeta.weights.state import parse, to_layout
from mmmeta.weights.trained import TRAINED

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'configs' / 'detection'
load = functools.partial(configs_of.load, 'detection')
build = functools.partial(configs_of.build, 'detection')
NAMES = sorted(p.stem for p in FOLDER.glob('*.py'))
SHAPES = ['mask_rcnn_poolformer_s12_shapes', 'retinanet_poolformer_s12_shapes']
EASY = 'retinanet_poolformer_s12_easy_shapes'
LISTED = configs_of.listed('detection')

# From the publishers' configs and tables: batch size, learning rate,
# weight decay, epochs, drop path, blocks of each stage that recompute, attention,
# weights, box AP, mask AP. ConvFormer and CAFormer: our choices; nothing published.
NO_CP = [0, 0, 0, 0]
# fmt: off
RECIPES = {
    'retinanet_poolformer_s12':
        (16, 1e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s12.sail_in1k', 36.2, None),
    'retinanet_poolformer_s24':
        (16, 1e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s24.sail_in1k', 38.9, None),
    'retinanet_poolformer_s36':
        (16, 1e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s36.sail_in1k', 39.5, None),
    'mask_rcnn_poolformer_s12':
        (16, 2e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s12.sail_in1k', 37.3, 34.6),
    'mask_rcnn_poolformer_s24':
        (16, 2e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s24.sail_in1k', 40.1, 37.0),
    'mask_rcnn_poolformer_s36':
        (16, 2e-4, 1e-4, 12, 0.0, NO_CP, None, 'poolformer_s36.sail_in1k', 41.0, 37.7),
    'mask_rcnn_uniformer_small':
        (16, 1e-4, 0.05, 12, 0.2, [0, 0, 8, 0], 'hybrid',
         'uniformer_small.sensex_in1k', 45.6, 41.6),
    'mask_rcnn_uniformer_small_ms_3x':
        (16, 1e-4, 0.05, 36, 0.1, [0, 0, 8, 0], 'hybrid',
         'uniformer_small.sensex_in1k', 48.2, 43.4),
    'mask_rcnn_uniformer_base':
        (16, 1e-4, 0.05, 12, 0.3, NO_CP, 'hybrid',
         'uniformer_base.sensex_in1k', 47.4, 43.1),
    'mask_rcnn_uniformer_base_ms_3x':
        (16, 1e-4, 0.05, 36, 0.3, [0, 0, 20, 0], 'hybrid',
         'uniformer_base.sensex_in1k', 50.3, 44.8),
    'cascade_mask_rcnn_uniformer_small_ms_3x':
        (16, 1e-4, 0.05, 36, 0.2, [0, 0, 8, 0], 'hybrid',
         'uniformer_small.sensex_in1k', 52.1, 45.2),
    'cascade_mask_rcnn_uniformer_base_ms_3x':
        (16, 1e-4, 0.05, 36, 0.4, [0, 0, 20, 0], 'hybrid',
         'uniformer_base.sensex_in1k', 53.8, 46.4),
}
for _method in ('mask_rcnn', 'cascade_mask_rcnn'):
    for _arch, _drop_path in {
        'convformer_s18': 0.2, 'convformer_s36': 0.3, 'convformer_m36': 0.4,
        'caformer_s18': 0.15, 'caformer_s36': 0.3, 'caformer_m36': 0.4,
    }.items():
        RECIPES[f'{_method}_{_arch}'] = (
            16, 1e-4, 0.05, 12, _drop_path, NO_CP, None, f'{_arch}.sail_in1k',
            None, None,
        )
# fmt: on
TYPES = {
    'poolformer': 'mmmeta.PoolFormer',
    'uniformer': 'mmmeta.UniFormer',
    'convformer': 'mmmeta.ConvFormer',
    'caformer': 'mmmeta.CAFormer',
}
METHODS = {
    'retinanet': 'RetinaNet',
    'mask_rcnn': 'Mask R-CNN',
    'cascade_mask_rcnn': 'Cascade Mask R-CNN',
}
OF_METHOD = {
    method: [n for n in RECIPES if n.startswith(f'{method}_')] for method in METHODS
}
MULTI_SCALE = [name for name in RECIPES if name.endswith('_ms_3x')]


def test_the_sweep_is_complete():
    assert len(NAMES) >= 24 + 3
    assert sorted([*RECIPES, *SHAPES, EASY]) == NAMES == sorted(LISTED)
    assert all(len(names) >= 3 for names in OF_METHOD.values())
    assert len(MULTI_SCALE) == 4


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    batch_size, lr, decay, epochs, drop_path, with_cp, attention, weights, *_ = RECIPES[
        name
    ]
    cfg = load(name)
    backbone = cfg.model.backbone
    arch = weights.split('.')[0]
    family, size = arch.split('_')
    assert (backbone.type, backbone.arch) == (TYPES[family], size)
    assert backbone.init_cfg == dict(
        type='Pretrained', checkpoint=f'mmmeta://{weights}'
    )
    # ImageNet-1k at 224x224: no token labeling, no layer scale for UniFormer.
    assert find(weights).input_size == 224
    assert backbone.drop_path_rate == drop_path
    assert backbone.get('with_cp', NO_CP) == with_cp
    assert backbone.get('attention') == attention
    assert backbone.get('window_size') == (14 if attention else None)
    # RetinaNet's FPN leaves the first output unused.
    assert backbone.fork_last3 is name.startswith('retinanet')

    assert cfg.model._scope_ == 'mmdet'
    neck = cfg.model.neck
    dims = [96, 192, 384, 576] if size == 'm36' else [64, 128, 320, 512]
    assert (neck.type, neck.in_channels) == ('FPN', dims)
    assert (neck.out_channels, neck.num_outs) == (256, 5)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32

    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch_size)
    assert cfg.train_dataloader.batch_size * 8 == batch_size
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'clip_grad' not in cfg.optim_wrapper
    optimizer = cfg.optim_wrapper.optimizer.to_dict()
    assert optimizer.pop('betas', (0.9, 0.999)) == (0.9, 0.999)
    assert optimizer == dict(type='AdamW', lr=lr, weight_decay=decay)


@pytest.mark.parametrize('name', RECIPES)
def test_docstring_and_listing(name):
    batch_size, _, _, epochs, *_, weights, box_ap, mask_ap = RECIPES[name]
    text = configs_of.docstring('detection', name)
    first = text.splitlines()[0]
    method = next(m for m in METHODS if name in OF_METHOD[m])
    schedule = '1x' if epochs == 12 else '3x'
    family, size = weights.split('.')[0].split('_')
    size = {'small': 'S', 'base': 'B'}.get(size, size.upper())
    family = TYPES[family].removeprefix('mmmeta.')
    start = f'{METHODS[method]}, {family}-{size}, COCO {schedule}: '
    page = find(weights).page.removeprefix('https://github.com/')
    if box_ap is None:
        assert first == f'{start}no result is published.'
    elif mask_ap is None:
        assert first == f'{start}{box_ap} box AP ({page}).'
    else:
        assert first == f'{start}{box_ap} box, {mask_ap} mask AP ({page}).'
    assert f'Batch size {batch_size}: on 8 GPUs {batch_size // 8} each.' in text

    listed = LISTED[name]
    metrics = {r['Task']: r['Metrics'] for r in listed['Results']}
    expected = {
        'Object Detection': {'box AP': box_ap},
        'Instance Segmentation': {'mask AP': mask_ap},
    }
    assert metrics == {
        task: metric for task, metric in expected.items() if None not in metric.values()
    }
    assert listed['In Collection'] == family
    assert listed['Metadata']['Batch Size'] == batch_size
    assert listed['Metadata']['Epochs'] == epochs
    row = TRAINED.get(name)
    assert listed.get('Weights') == (row and row.sources[0].url)

    # UniFormer was trained in mixed precision, which the command must enable.
    amp = family == 'UniFormer'
    path = f'configs/detection/{name}.py'
    words = [shlex.split(line) for line in text.splitlines() if 'GPU' in line[:6]]
    many, one = ([w for w in words if w[1] == gpus] for gpus in ('GPUs:', 'GPU:'))
    assert [w[2:] for w in many] == [
        ['bash', 'tools/dist_train.sh', path, '8', *['--amp'] * amp]
    ]
    ((_, _, *command),) = one
    assert command[:3] == ['python', 'tools/train.py', path]
    parser = argparse.ArgumentParser()
    for option in ('--amp', '--auto-scale-lr'):
        parser.add_argument(option, action='store_true')
    options = parser.parse_args(command[3:])
    assert (options.amp, options.auto_scale_lr) == (amp, True)


@pytest.mark.parametrize('name', [*SHAPES, EASY])
def test_shapes_listing(name):
    cfg, metadata = load(name), LISTED[name]['Metadata']
    assert metadata['Epochs'] == cfg.train_cfg.max_epochs
    assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    assert metadata['Batch Size'] == cfg.train_dataloader.batch_size
    assert LISTED[name]['Results'] == []


def test_shapes_configs_share_data_and_schedule():
    mask, box = (load(name).to_dict() for name in SHAPES)
    shared = ('param_scheduler', 'optim_wrapper', 'train_cfg', 'auto_scale_lr', 'scale')
    for key in shared:
        assert mask[key] == box[key], key
    for key in ('train_pipeline', 'test_pipeline'):
        for transform in mask[key]:
            assert transform.pop('with_mask', True)
        assert mask[key] == box[key]
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        annotations = [
            t for t in mask[loader]['dataset']['pipeline'] if 'with_bbox' in t
        ]
        assert [t['with_mask'] for t in annotations] == [True]
    for evaluator in ('val_evaluator', 'test_evaluator'):
        assert mask[evaluator]['metric'] == ['bbox', 'segm']
        assert box[evaluator]['metric'] == 'bbox'
    heads = mask['model']['roi_head']
    assert heads['bbox_head']['num_classes'] == len(mask['metainfo']['classes'])
    assert heads['mask_head']['num_classes'] == len(mask['metainfo']['classes'])


# Tensors with weight decay and without, counted by hand.
# Every backbone: four convolutions between stages with biases (8) and four norms of
# the outputs. Mask R-CNN: FPN 16, RPN 6, box head 8, mask head 12.
MASK_RCNN = 8 + 16 + 6 + 8 + 12
# Three box heads of four convolutions with a batch norm each (12) and three layers
# with biases (6), three mask heads; batch norms called `bn` keep their decay.
CASCADE = 8 + 16 + 6 + 3 * (12 + 6) + 3 * 12
DECAY = {
    # Everything decays. 12 blocks: two norms, two layers, two layer scales; the
    # norms of the outputs. RetinaNet: a norm less; FPN 10, four convolutions in each
    # of two towers, two layers behind them.
    'mask_rcnn_poolformer_s12': (12 * (4 + 4 + 2) + 8 + MASK_RCNN, 0),
    'retinanet_poolformer_s12': (12 * (4 + 4 + 2) + 6 + 8 + 10 + 2 * 4 * 2 + 4 + 6, 0),
    # 7 blocks of convolutions: position, three of the mixer, two of the MLP, with
    # biases; 11 of attention: position, two and two. Two norms in each of the 18, one
    # in each downsampling, with biases.
    'mask_rcnn_uniformer_small': (7 * 12 + 11 * 10 + MASK_RCNN, 18 * 4 + 8 + 8),
    'mask_rcnn_uniformer_base': (13 * 12 + 27 * 10 + MASK_RCNN, 40 * 4 + 8 + 8),
    'cascade_mask_rcnn_uniformer_small_ms_3x': (
        7 * 12 + 11 * 10 + CASCADE,
        18 * 4 + 8 + 8,
    ),
    # 18 blocks: five layers and the biases of two StarReLU; without decay their
    # scales, two norms without biases, in the last 12 two scales of the shortcut.
    'mask_rcnn_convformer_s18': (18 * 7 + MASK_RCNN, 18 * (2 + 2) + 12 * 2 + 4 + 4),
    'cascade_mask_rcnn_convformer_s36': (
        36 * 7 + CASCADE,
        36 * (2 + 2) + 21 * 2 + 4 + 4,
    ),
    # In the last 12 and 21 blocks attention: four layers, one StarReLU.
    'mask_rcnn_caformer_s18': (
        6 * 7 + 12 * 5 + MASK_RCNN,
        6 * 4 + 12 * 3 + 12 * 2 + 4 + 4,
    ),
    'mask_rcnn_caformer_m36': (
        15 * 7 + 21 * 5 + MASK_RCNN,
        15 * 4 + 21 * 3 + 21 * 2 + 4 + 4,
    ),
}


def undecayed(name: str) -> set[str]:
    """Return the names of the parameters without weight decay."""
    model = build(name)
    wrapper = build_optim_wrapper(model, copy.deepcopy(load(name).optim_wrapper))
    assert type(wrapper) is OptimWrapper
    assert type(wrapper.optimizer) is torch.optim.AdamW
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    _, lr, decay, *_ = RECIPES[name]
    found = {0.0: set(), decay: set()}
    for group in wrapper.optimizer.param_groups:
        assert group['lr'] == lr
        found[group['weight_decay']] |= {names.pop(id(p)) for p in group['params']}
    assert not names
    assert (len(found[decay]), len(found[0.0])) == DECAY[name]
    return found[0.0]


@pytest.mark.parametrize('name', DECAY)
def test_weight_decay(name):
    for key in undecayed(name):
        assert key.startswith('backbone.')
        assert 'norm' in key or 'scale' in key
        # Biases decay, except those of UniFormer's norms.
        assert 'norm' in key or not key.endswith('.bias')


@pytest.mark.parametrize(
    'name', ['mask_rcnn_uniformer_small', 'mask_rcnn_uniformer_base']
)
def test_uniformer_s_undecayed_are_those_named_norm_in_the_reference(name):
    backbone = build(name).backbone
    reference = to_layout(parse(backbone.state_dict()), 'Sense-X/UniFormer')
    names = parse(reference).names
    expected = {
        f'backbone.{key}'
        for key, _ in backbone.named_parameters()
        if 'norm' in names[key]
    }
    assert undecayed(name) == expected
    assert {'norm1.weight', 'patch_embed1.norm.bias', 'blocks3.0.norm2.bias'} <= {
        names[key.removeprefix('backbone.')] for key in expected
    }


EPOCH = 500  # iterations, as many as the warm-up has


@pytest.mark.parametrize(
    ('name', 'lr', 'steps', 'epochs'),
    [
        ('retinanet_poolformer_s36', 1e-4, (8, 11), 12),
        ('mask_rcnn_poolformer_s12', 2e-4, (8, 11), 12),
        ('mask_rcnn_uniformer_base', 1e-4, (8, 11), 12),
        ('mask_rcnn_uniformer_small_ms_3x', 1e-4, (27, 33), 36),
        ('cascade_mask_rcnn_uniformer_base_ms_3x', 1e-4, (27, 33), 36),
        ('mask_rcnn_convformer_s18', 1e-4, (8, 11), 12),
        ('cascade_mask_rcnn_caformer_m36', 1e-4, (8, 11), 12),
    ],
)
def test_learning_rates(name, lr, steps, epochs):
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    wrapper = build_optim_wrapper(
        torch.nn.Linear(2, 2), copy.deepcopy(cfg.optim_wrapper)
    )
    schedulers = [
        PARAM_SCHEDULERS.build(dict(s, optimizer=wrapper)) for s in cfg.param_scheduler
    ]
    assert cfg.train_cfg.max_epochs == epochs
    rates = []
    for step in range(epochs * EPOCH):
        rates.append(wrapper.param_groups[0]['lr'])
        wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % EPOCH == 0:
                scheduler.step()
    first, second = (epoch * EPOCH for epoch in steps)
    expected = {
        0: lr * 0.001,
        250: lr * (0.001 + 0.999 * 250 / 499),
        500: lr,
        first - 1: lr,
        first: lr / 10,
        second - 1: lr / 10,
        second: lr / 100,
        epochs * EPOCH - 1: lr / 100,
    }
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(rate, rel=1e-6), step


@pytest.mark.parametrize('name', OF_METHOD['retinanet'])
def test_retinanet_neck(name):
    neck = load(name).model.neck
    assert (neck.start_level, neck.add_extra_convs) == (1, 'on_input')
    assert (neck.out_channels, neck.num_outs) == (256, 5)


@pytest.mark.parametrize('name', OF_METHOD['mask_rcnn'])
def test_mask_rcnn_heads(name):
    model = load(name).model
    assert model.type == 'MaskRCNN'
    assert model.roi_head.bbox_head.type == 'Shared2FCBBoxHead'
    assert not model.roi_head.bbox_head.reg_class_agnostic
    assert model.roi_head.mask_head.num_convs == 4


@pytest.mark.parametrize('name', OF_METHOD['cascade_mask_rcnn'])
def test_cascade_heads(name):
    model = load(name).model
    assert (model.type, model.roi_head.num_stages) == ('CascadeRCNN', 3)
    assert model.roi_head.stage_loss_weights == [1, 0.5, 0.25]
    stds = []
    for head in model.roi_head.bbox_head:
        assert head.type == 'ConvFCBBoxHead'
        assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
        assert (head.conv_out_channels, head.fc_out_channels) == (256, 1024)
        assert head.norm_cfg == dict(type='SyncBN', requires_grad=True)
        assert head.reg_decoded_bbox
        assert not head.reg_class_agnostic
        assert head.loss_bbox == dict(type='GIoULoss', loss_weight=10.0)
        stds.append(head.bbox_coder.target_stds)
    assert stds == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    thresholds = [stage.assigner.pos_iou_thr for stage in model.train_cfg.rcnn]
    assert thresholds == [0.5, 0.6, 0.7]


@pytest.mark.parametrize('name', RECIPES)
def test_pipelines(name):
    cfg = load(name)
    masks = not name.startswith('retinanet')
    assert cfg.val_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
    train = cfg.train_dataloader.dataset.pipeline
    _, resize, annotations, _ = cfg.val_dataloader.dataset.pipeline
    for transform in (train[1], annotations):
        assert transform.get('with_mask', False) == masks
    assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)
    if name not in MULTI_SCALE:
        assert train[2] == resize
        assert (train[3].type, train[3].prob) == ('RandomFlip', 0.5)
        return
    assert (train[2].type, train[2].prob) == ('RandomFlip', 0.5)
    (plain,), (before, crop, after) = train[3].transforms
    sides = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    for transform in (plain, after):
        assert transform.scales == [(side, 1333) for side in sides]
    assert before.scales == [(400, 1333), (500, 1333), (600, 1333)]
    for transform in (plain, before, after):
        assert (transform.type, transform.keep_ratio) == ('RandomChoiceResize', True)
    assert (crop.type, crop.crop_type) == ('RandomCrop', 'absolute_range')
    assert (crop.crop_size, crop.allow_negative_crop) == ((384, 600), True)


def test_multi_scale_pipeline_runs():
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    cfg = load('mask_rcnn_uniformer_small_ms_3x')
    init_default_scope(cfg.default_scope)
    # Without reading: the image is there already.
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline[2:])
    image = np.zeros((480, 640, 3), np.uint8)
    mask = np.zeros((1, 480, 640), np.uint8)
    mask[:, 200:300, 100:500] = 1
    np.random.seed(0)
    ratios = set()
    for _ in range(12):
        data = pipeline(
            dict(
                img=image.copy(),
                img_shape=(480, 640),
                ori_shape=(480, 640),
                gt_bboxes=HorizontalBoxes(torch.tensor([[100.0, 200, 500, 300]])),
                gt_bboxes_labels=np.array([3]),
                gt_ignore_flags=np.array([False]),
                gt_masks=BitmapMasks(mask, 480, 640),
            )
        )
        _, height, width = data['inputs'].shape
        assert min(height, width) <= 800
        assert max(height, width) <= 1333
        ratios.add(round(width / height, 1))
        instances = data['data_samples'].gt_instances
        assert instances.masks.masks.shape[1:] == (height, width)
    assert 1.3 in ratios  # whole images, 640:480
    assert len(ratios) > 1  # and crops
