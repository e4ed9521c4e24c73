"""Small models that are valid and unusual, for the tests of commands and optimize."""

from pathlib import Path

import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

STOCK = Path(mmdet.__file__).parent / '.mim/configs'
ARCH = dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))
SIDE = 64  # pixels of the images


def backbone(**kwargs) -> dict:
    return dict(type='mmmeta.PoolFormer', arch=ARCH, **kwargs)


def classifier(head: dict, channels: int = 3, **preprocessor) -> dict:
    preprocessor = preprocessor or dict(mean=[99.0, 88, 77], std=[50.0, 60, 70])
    return dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=backbone(fork_feat=False, in_channels=channels),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(in_channels=48, **head),
            data_preprocessor=dict(type='ClsDataPreprocessor', **preprocessor),
        ),
        test_dataloader=dict(
            dataset=dict(
                type='CustomDataset',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=SIDE),
                    dict(type='PackInputs'),
                ],
            )
        ),
    )


LINEAR = dict(type='LinearClsHead', num_classes=3)


def segmentor(**head) -> dict:
    head = dict(num_classes=3) | head
    return dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            backbone=backbone(),
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[0, 0, 0], std=[255.0] * 3
            ),
            decode_head=dict(
                type='FCNHead',
                in_channels=48,
                in_index=3,
                channels=48,
                num_convs=0,
                concat_input=False,
                dropout_ratio=0,
                **head,
            ),
            test_cfg=dict(mode='whole'),
        ),
        test_dataloader=dict(
            dataset=dict(
                type='BaseSegDataset',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(SIDE, SIDE)),
                    dict(type='PackSegInputs'),
                ],
            )
        ),
    )


BINARY = dict(
    num_classes=2,
    out_channels=1,
    threshold=0.45,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
)


def detector(path: str, levels: int = 3, **model) -> dict:
    """A stock config with a small backbone whose last maps go to the neck."""
    cfg = Config.fromfile(STOCK / path)
    cfg.model.backbone = backbone(out_indices=tuple(range(4 - levels, 4)))
    if 'neck' in cfg.model:
        neck = cfg.model.neck[0] if isinstance(cfg.model.neck, list) else cfg.model.neck
        neck.in_channels = list(ARCH['dims'][-levels:])
    cfg.merge_from_dict(dict(model=model))
    for step in cfg.test_pipeline:
        if step.type == 'Resize':
            step.scale = (SIDE, SIDE)
    dataset = dict(type='CocoDataset', pipeline=cfg.test_pipeline)
    return dict(
        default_scope='mmdet',
        model=cfg.model.to_dict(),
        test_dataloader=dict(dataset=dataset),
    )


def write(cfg: dict, folder: Path) -> tuple[Path, Path, nn.Module]:
    """Write a config and weights at which classes differ; return these, and the model.

    No annotation file is there, as for every data set of the configs here.
    """
    path, weights = folder / 'c.py', folder / 'm.pth'
    Config(cfg).dump(path)
    model = build(cfg)
    torch.save(model.state_dict(), weights)
    return path, weights, model


def build(cfg: dict) -> nn.Module:
    __import__(f'{cfg["default_scope"]}.models')
    init_default_scope(cfg['default_scope'])
    torch.manual_seed(0)
    model = MODELS.build(dict(Config(cfg).model, _scope_=cfg['default_scope'])).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and 'backbone' not in name:
            nn.init.xavier_normal_(parameter)
    return model
