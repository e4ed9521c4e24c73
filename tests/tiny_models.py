"""Tiny models, one a task: configs, and checkpoints of random weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

BACKBONE = (
    "dict(type='mmmeta.PoolFormer', "
    'arch=dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48)), {})'
)
CONFIGS = {
    'classification': f"""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone={BACKBONE.format('fork_feat=False')},
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=48),
    data_preprocessor=dict(
        num_classes=CLASSES, mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=pipeline))
""",
    'segmentation': f"""
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone={BACKBONE.format('')},
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[0, 0, 0], std=[255, 255, 255],
        bgr_to_rgb=True),
    decode_head=dict(
        type='FCNHead', in_channels=48, in_index=3, channels=48, num_convs=0,
        concat_input=False, num_classes=CLASSES, dropout_ratio=0,
        norm_cfg=dict(type='BN')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=pipeline))
""",
    'detection': f"""
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    backbone={BACKBONE.format('fork_last3=True')},
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255],
        bgr_to_rgb=True, pad_size_divisor=32),
    neck=dict(
        type='FPN', in_channels=[16, 24, 32, 48], out_channels=16, start_level=1,
        num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=CLASSES, in_channels=16, feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1,
            ratios=[1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=8))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs',
        meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=pipeline))
""",
}


def write_model(
    folder: Path,
    task: str,
    classes: int = 3,
    meta: dict | None = None,
    change: Callable[[nn.Module], object] | None = None,
    extra: str = '',
) -> list[str]:
    """Write a config and a checkpoint; return their paths.

    Args:
        folder: Where to.
        task: A key of `CONFIGS`.
        classes: Number of outputs.
        meta: What the checkpoint says of the data set. Default: nothing.
        change: Called with the model before it is saved.
        extra: Lines at the end of the config.
    """
    config, checkpoint = folder / f'{task}.py', folder / f'{task}.pth'
    config.write_text(CONFIGS[task].replace('CLASSES', str(classes)) + extra)
    cfg = Config.fromfile(config)
    __import__(f'{cfg.default_scope}.models')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if change:
        change(model)
    content = dict(state_dict=model.state_dict())
    torch.save(
        {**content, 'meta': {'dataset_meta': meta}} if meta else content, checkpoint
    )
    return [str(config), str(checkpoint)]


def write_picture(path: Path, size: Sequence[int] = (48, 40), seed: int = 0) -> Path:
    """Write an image of noise, of a width and a height."""
    noise = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path, 'png')
    return path
