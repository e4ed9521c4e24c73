"""300 epochs of IdentityFormer, RandFormer and PoolFormerV2 on ImageNet-1k.

Source: sail-sg/metaformer, scripts/ and train.py (2210.13452). AdamW, batch size
4096, learning rate 4e-3.
"""

_base_ = 'imagenet_300e.py'

auto_scale_lr = dict(base_batch_size=4096)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 4e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
