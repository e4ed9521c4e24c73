"""ImageNet-1k at 224x224 for PoolFormer-S12, S24 and S36.

MMPretrain's for the same models: 128 images a GPU; RandomResizedCrop, flip,
rand-m9-mstd0.5-inc1 and erasing in the training.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

# Steps with their scope, so that they build from any, as MMPretrain's own do.
test_pipeline = [
    dict(_scope_='mmpretrain', type='LoadImageFromFile'),
    dict(
        _scope_='mmpretrain',
        type='ResizeEdge',
        scale=248,  # 224 / 0.9, rounded down as timm does
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(_scope_='mmpretrain', type='CenterCrop', crop_size=224),
    dict(_scope_='mmpretrain', type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
