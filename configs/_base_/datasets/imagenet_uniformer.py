"""ImageNet-1k at 224x224 for UniFormer.

As for PoolFormer, with repeated augmentation as in DeiT.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

test_pipeline = _base_.test_pipeline
# 224 / 0.875
next(step for step in test_pipeline if step.type == 'ResizeEdge').scale = 256
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
