"""UniFormer on ImageNet-1k: what the five variants share.

Source: Sense-X/UniFormer, image_classification/main.py and exp/ (2201.09450): DeiT's
recipe with repeated augmentation, batch size 1024. The authors trained in mixed
precision (`--amp`). They also kept an average of the weights, but report the accuracy
of the weights themselves.
"""

_base_ = 'imagenet_metaformer.py'

model = dict(
    backbone=dict(type='mmmeta.UniFormer', arch='small', drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=512),
)

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 256
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
