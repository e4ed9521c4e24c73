"""Semantic FPN, PoolFormer-S12, on the embedded shapes.

From random weights, in minutes, on a CPU:
    python -m mmmeta.datasets --root data/shapes
    python tools/train.py configs/segmentation/semantic_fpn_poolformer_s12_shapes.py
"""

_base_ = 'semantic_fpn_poolformer_s12.py'

data_root = 'data/shapes/'
# The maps have these as 1 to 7, and no 0.
metainfo = dict(
    classes=('circle', 'cross', 'ring', 'square', 'star', 'triangle', 'background'),
    palette=[
        [230, 25, 75],
        [60, 180, 75],
        [255, 225, 25],
        [0, 130, 200],
        [245, 130, 48],
        [145, 30, 180],
        [0, 0, 0],
    ],
)
scale = (128, 128)  # pixels; the images have 256x256
norm_cfg = dict(type='BN')

model = dict(
    data_preprocessor=dict(size=scale),
    # From so small weights as the reference's, the blocks would take long to matter.
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Conv2d',
            mode='fan_in',
            nonlinearity='relu',
        )
    ),
    # Without pretrained weights, norms in the neck and the head are what lets a
    # segmentor start to learn within minutes; narrower, they cost a CPU less.
    neck=dict(out_channels=128, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[128] * 4,
        channels=128,
        num_classes=7,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=[1.0] * 6 + [0.4]),  # most is background
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = None  # the base's scales are those of ADE20K
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(img_path='images/train', seg_map_path='semantic/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(img_path='images/val', seg_map_path='semantic/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=25, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05, fused=True),
    # The training is short: layer scale, which starts at 1e-5, and the norms' scales
    # learn faster than the rest.
    paramwise_cfg=dict(
        custom_keys={
            'norm': dict(lr_mult=10.0, decay_mult=0.0),
            'layer_scale': dict(lr_mult=50.0, decay_mult=0.0),
        }
    ),
)
auto_scale_lr = dict(base_batch_size=16)
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=max_iters, max_keep_ckpts=1),
)
