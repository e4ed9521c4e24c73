"""ImageNet-1k at 224x224 for PoolFormer-S12, S24 and S36.

MMPretrain's settings for the same models: 128 images per GPU; RandomResizedCrop, flip,
rand-m9-mstd0.5-inc1 and erasing in training.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

test_pipeline = _base_.test_pipeline
# 224 / 0.9, rounded down as timm does
next(step for step in test_pipeline if step.type == 'ResizeEdge').scale = 248
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
