"""RetinaNet, PoolFormer-S12, on the embedded shapes: what `make demo` trains.

From random weights, in minutes, on a CPU:
    python -m mmmeta.datasets --root data/shapes
    python tools/train.py configs/detection/retinanet_poolformer_s12_shapes.py
"""

_base_ = 'retinanet_poolformer_s12.py'

data_root = 'data/shapes/'
metainfo = dict(classes=('circle', 'cross', 'ring', 'square', 'star', 'triangle'))
scale = (128, 128)  # pixels; the images have 256x256

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(init_cfg=None),
    # Without pretrained weights, norms in the neck and the head are what lets a
    # detector start to learn within minutes; narrower, they cost a CPU less.
    neck=dict(out_channels=128, norm_cfg=dict(type='GN', num_groups=16), num_outs=4),
    bbox_head=dict(
        num_classes=6,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(
            octave_base_scale=2, ratios=[1.0], strides=[8, 16, 32, 64]
        ),
        loss_cls=dict(gamma=1.5, alpha=0.5),
    ),
    # More anchors count as objects, and those count more in the loss above: in so
    # short a training both about double what is found.
    train_cfg=dict(assigner=dict(pos_iou_thr=0.4, neg_iou_thr=0.3)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

max_epochs = 13
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min_ratio=0.02,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05, fused=True),
    # Layer scale starts at 1e-5: at the common rate the blocks would stay mute for
    # most of this short training.
    paramwise_cfg=dict(custom_keys={'layer_scale': dict(lr_mult=10.0, decay_mult=0.0)}),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=4)
# So that a run can be repeated; the result of so short a training depends on it.
randomness = dict(seed=103924416)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(max_keep_ckpts=1),
)
