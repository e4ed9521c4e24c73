"""Semantic FPN, PoolFormer-S12, on the embedded shapes.

From random weights, in minutes, on a CPU:
    python -m mmmeta.datasets --root data/shapes
    python tools/train.py configs/segmentation/semantic_fpn_poolformer_s12_shapes.py
"""

_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/semantic_fpn_poolformer_40k.py',
    'mmseg::_base_/default_runtime.py',
]

norm_cfg = dict(type='BN')

model = dict(
    data_preprocessor=dict(size=_base_.scale),
    # With the reference's small initial weights, the blocks would have little effect.
    backbone=dict(
        _base_.pop('backbones').poolformer_s12,
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu'
        ),
    ),
    # Without pretrained weights, a segmentor needs norms in the neck and head to start
    # learning within minutes; narrower layers are cheaper on a CPU.
    neck=dict(out_channels=128, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[128] * 4,
        channels=128,
        num_classes=7,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=[1.0] * 6 + [0.4]),  # mostly background
    ),
)

max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=25, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05, fused=True),
    # Because training is short, layer scale, which starts at 1e-5, and the norms'
    # scales have a higher learning rate.
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
