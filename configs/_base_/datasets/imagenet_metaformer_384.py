"""ImageNet-1k at 384x384, for fine-tuning the models of MetaFormer Baselines.

128 images a GPU.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

train_pipeline = _base_.train_pipeline
next(step for step in train_pipeline if step.type == 'RandomResizedCrop').scale = 384
# Steps with their scope, so that they build from any, as MMPretrain's own do.
test_pipeline = [
    dict(_scope_='mmpretrain', type='LoadImageFromFile'),
    dict(
        _scope_='mmpretrain',
        type='ResizeEdge',
        scale=384,  # the whole shorter side
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(_scope_='mmpretrain', type='CenterCrop', crop_size=384),
    dict(_scope_='mmpretrain', type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
