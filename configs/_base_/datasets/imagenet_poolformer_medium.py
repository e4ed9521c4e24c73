"""ImageNet-1k at 224x224 for PoolFormer-M36 and M48.

As for the smaller models, except for the test size.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

test_pipeline = _base_.test_pipeline
# 224 / 0.95, rounded down as timm does
next(step for step in test_pipeline if step.type == 'ResizeEdge').scale = 235
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
