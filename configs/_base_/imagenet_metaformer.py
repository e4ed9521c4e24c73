"""ImageNet-1k for MetaFormer classifiers: what all the recipes share.

Source: the training scripts of sail-sg/poolformer, sail-sg/metaformer and
Sense-X/UniFormer, which are timm's with DeiT's settings. 300 epochs of AdamW with
weight decay 0.05, batch size 1024, 5 epochs of warm-up from 1e-6, a cosine to 1e-5;
RandAugment, mixup or cutmix, random erasing, label smoothing; no gradient clipping,
float32 (`--amp` for mixed precision). timm lets the warm-up step once an epoch and
sail-sg adds ten epochs at the lowest rate; both are left out, as in MMPretrain.
"""

_base_ = [
    # RandomResizedCrop, flip, rand-m9-mstd0.5-inc1, erasing: the same for all.
    'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    _scope_='mmpretrain',  # so that it builds from any scope, as mmengine.hub does it
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(fork_feat=False),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    # One of the two for every batch.
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    ),
)

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    # As timm: no decay of anything one-dimensional, so of norms, biases and scales.
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)

# One is saved each epoch.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
