"""ImageNet-1k at 224x224 for the models of MetaFormer Baselines (2210.13452).

As for PoolFormer, with 512 images per GPU.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

test_pipeline = _base_.test_pipeline
# the full shorter side
next(step for step in test_pipeline if step.type == 'ResizeEdge').scale = 224
train_dataloader = dict(batch_size=512)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
