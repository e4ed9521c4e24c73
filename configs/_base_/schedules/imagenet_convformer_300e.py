"""300 epochs of ConvFormer on ImageNet-1k: 20 epochs of warm-up.

Source: sail-sg/metaformer, scripts/convformer and train.py (2210.13452).
"""

_base_ = 'imagenet_metaformer_300e.py'

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 4e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300),
]
