"""ImageNet-1k at 384x384, for fine-tuning the models of MetaFormer Baselines.

128 images per GPU.
"""

_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py'

train_pipeline = _base_.train_pipeline
next(step for step in train_pipeline if step.type == 'RandomResizedCrop').scale = 384
test_pipeline = _base_.test_pipeline
next(step for step in test_pipeline if step.type == 'ResizeEdge').scale = 384
next(step for step in test_pipeline if step.type == 'CenterCrop').crop_size = 384
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
