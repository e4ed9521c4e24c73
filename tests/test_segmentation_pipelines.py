"""Segmentation configs at work: pipelines, a training step, the tools."""

import copy
import functools
import json
import math
from pathlib import Path

import configs_of
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmmeta.hosts.config import set_tta

ROOT = Path(__file__).resolve().parent.parent
SHAPES = 'semantic_fpn_poolformer_s12_shapes'
load = functools.partial(configs_of.load, 'segmentation')
build = functools.partial(configs_of.build, 'segmentation')

# -- data --------------------------------------------------------------------

# Height and width of images, what 512 for the shorter side makes of them (2048 for the
# longer one, where that is less), and the next multiples of 32.
SIZES = [
    ((512, 683), (512, 683), (512, 704)),
    ((300, 400), (512, 683), (512, 704)),
    ((200, 1000), (410, 2048), (416, 2048)),
]


@pytest.fixture
def scene(tmp_path):
    """A function that writes an image of a given size and its class map."""

    def make(height: int, width: int) -> dict:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = rng.integers(0, 151, (height, width), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / 'image.png'), image)
        assert cv2.imwrite(str(tmp_path / 'labels.png'), labels)
        return dict(
            img_path=str(tmp_path / 'image.png'),
            seg_map_path=str(tmp_path / 'labels.png'),
            label_map=None,
            reduce_zero_label=True,
            seg_fields=[],
        )

    return make


def transform(pipeline: list[dict], data: dict) -> dict:
    init_default_scope('mmseg')
    return Compose(copy.deepcopy(pipeline))(data)


@pytest.mark.parametrize(('size', 'resized', 'aligned'), SIZES)
@pytest.mark.parametrize(
    'name', ['semantic_fpn_poolformer_s12', 'upernet_caformer_s18']
)
def test_size_of_images_in_the_test(name, size, resized, aligned, scene):
    cfg = load(name)
    pipeline = cfg.val_dataloader.dataset.pipeline
    assert cfg.test_dataloader.dataset.pipeline == pipeline
    assert cfg.test_pipeline == pipeline or name.startswith('upernet')
    data = transform(pipeline, scene(*size))
    expected = aligned if name.startswith('semantic_fpn') else resized
    assert tuple(data['inputs'].shape[1:]) == expected
    assert tuple(data['data_samples'].gt_sem_seg.shape) == size
    assert data['data_samples'].gt_sem_seg.data.max() == 255  # formerly 0


@pytest.mark.parametrize(
    'name', ['semantic_fpn_uniformer_base', 'upernet_uniformer_base']
)
def test_pipeline_of_the_training(name, scene):
    cfg = load(name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    resize = next(step for step in pipeline if step.type == 'RandomResize')
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    assert resize.keep_ratio
    crop = next(step for step in pipeline if step.type == 'RandomCrop')
    assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
    assert 'PhotoMetricDistortion' in [step.type for step in pipeline]
    for _ in range(3):
        data = transform(pipeline, scene(300, 400))
        assert max(data['inputs'].shape[1:]) <= 512


@pytest.mark.parametrize(
    'name', ['semantic_fpn_uniformer_base', 'upernet_convformer_s36']
)
def test_scales_of_the_augmented_test(name, scene):
    data = transform(load(name).tta_pipeline, scene(300, 400))
    sizes = [tuple(image.shape[1:]) for image in data['inputs']]
    if name.startswith('semantic_fpn'):
        expected = [(256, 352), (384, 512), (512, 704), (640, 864), (768, 1024)]
        expected += [(896, 1216)]
    else:
        expected = [(256, 341), (384, 512), (512, 683), (640, 853), (768, 1024)]
        expected += [(896, 1195)]
    assert sizes == [size for size in expected for _ in range(2)]
    flips = [sample.flip for sample in data['data_samples']]
    assert flips == [False, True] * 6
    plain, flipped = data['inputs'][:2]
    assert torch.equal(plain, flipped.flip(-1))


# -- running -----------------------------------------------------------------


def small(name: str) -> Config:
    """A config with a very small, fast model."""
    cfg = copy.deepcopy(load(name))
    dims = [16, 16, 32, 32]
    model = cfg.model
    model.backbone.arch = dict(depths=[1, 1, 1, 1], dims=dims)
    model.backbone.init_cfg = None
    model.backbone.pop('with_cp', None)
    model.decode_head.channels = 16
    if name.startswith('semantic_fpn'):
        model.neck.in_channels = dims
    else:
        model.decode_head.in_channels = dims
        model.auxiliary_head.update(in_channels=dims[2], channels=16)
    return cfg


@pytest.mark.parametrize(
    'name', ['semantic_fpn_poolformer_s12', 'upernet_poolformer_s12']
)
def test_a_training_step(name):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = small(name)
    cfg.model.data_preprocessor.size = (64, 64)
    init_default_scope('mmseg')
    # Like the runner in non-distributed training.
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.decode_head.conv_seg.weight.clone()
    data = dict(
        inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2,
        data_samples=[
            SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 64))))
            for _ in range(2)
        ],
    )
    losses = model.train_step(data, wrapper)
    # The loss for 150 equally likely classes; 0.4 of it in the other head.
    expected = math.log(150) * (1 if name.startswith('semantic_fpn') else 1.4)
    assert losses['loss'].item() == pytest.approx(expected, rel=0.1)
    assert not torch.equal(model.decode_head.conv_seg.weight, before)


def test_the_augmented_test_averages_probabilities(scene):
    cfg = small('upernet_poolformer_s12')
    set_tta(cfg)
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline
    scales = cfg.tta_pipeline[1].transforms[0]
    del scales[2:]  # the larger ones are slow
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    data = transform(cfg.tta_pipeline, scene(60, 80))
    batch = {key: [[value] for value in values] for key, values in data.items()}
    with torch.no_grad():
        (found,) = model.test_step(copy.deepcopy(batch))
        probabilities = 0
        for inputs, samples in zip(batch['inputs'], batch['data_samples'], strict=True):
            step = dict(inputs=inputs, data_samples=samples)
            (single,) = model.module.test_step(step)
            probabilities += single.seg_logits.data.softmax(0)
    assert found.pred_sem_seg.shape == (60, 80)
    assert torch.equal(found.pred_sem_seg.data.squeeze(), probabilities.argmax(0))


def test_classes_of_the_shapes(shapes):
    from mmmeta.datasets.shapes import BACKGROUND, CLASSES

    cfg = copy.deepcopy(load(SHAPES))
    init_default_scope('mmseg')
    for loader, number in ((cfg.train_dataloader, 24), (cfg.val_dataloader, 8)):
        loader.dataset.data_root = f'{shapes}/'
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == number
        assert dataset.metainfo['classes'] == (*CLASSES, 'background')
        found = set()
        for data in dataset:
            labels = data['data_samples'].gt_sem_seg.data
            assert data['inputs'].shape == (3, 128, 128)
            found |= set(labels.unique().tolist())
        assert found == set(range(BACKGROUND))
    assert cfg.model.decode_head.num_classes == BACKGROUND
    assert cfg.model.backbone.init_cfg.type != 'Pretrained'
    names = [type(m).__name__ for m in build(SHAPES).modules()]
    assert 'SyncBatchNorm' not in names
    assert 'BatchNorm2d' in names


def test_the_tools_train_and_test_the_shapes(shapes, warm_python, tmp_path):
    options = [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        *(
            f'{k}_dataloader.dataset.data_root={shapes}/'
            for k in ('train', 'val', 'test')
        ),
    ]
    config = f'configs/segmentation/{SHAPES}.py'
    for tool in ('train', 'test'):
        args = [str(tmp_path / 'iter_2.pth')] if tool == 'test' else []
        args += ['--show-dir', str(tmp_path / 'pictures')] if tool == 'test' else []
        args += ['--work-dir', str(tmp_path), '--cfg-options', *options]
        done = warm_python.run(f'tools/{tool}.py', config, *args, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
    (log,) = tmp_path.glob('*/*.json')
    scores = json.loads(log.read_text().splitlines()[-1])
    assert 0 <= scores['mIoU'] <= 100
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 8
