"""ImageNet-1k at 224x224 for the models of MetaFormer Baselines (2210.13452).

PoolFormer's, with 512 images a GPU.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

# Steps with their scope, so that they build from any, as MMPretrain's own do.
test_pipeline = [
    dict(_scope_='mmpretrain', type='LoadImageFromFile'),
    dict(
        _scope_='mmpretrain',
        type='ResizeEdge',
        scale=224,  # the whole shorter side
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(_scope_='mmpretrain', type='CenterCrop', crop_size=224),
    dict(_scope_='mmpretrain', type='PackInputs'),
]
train_dataloader = dict(batch_size=512)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
