"""300 epochs of CAFormer on ImageNet-1k: like ConvFormer, with LAMB and twice the rate.

Source: sail-sg/metaformer, scripts/caformer and train.py (2210.13452). The scripts
train in float32; a NaN was reported for B36 in mixed precision (sail-sg/metaformer,
issue 20).
"""

_base_ = 'imagenet_metaformer_300e.py'

# It clips the norm of all gradients at 1 by itself, like timm's.
optim_wrapper = dict(optimizer=dict(type='mmpretrain.Lamb', lr=8e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 8e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300),
]
