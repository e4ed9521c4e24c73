"""PoolFormer on ImageNet-1k: what the five sizes share.

Source: sail-sg/poolformer, README and train.py (2111.11418). Batch size 1024,
learning rate 1e-3.
"""

_base_ = 'imagenet_metaformer.py'

model = dict(
    backbone=dict(type='mmmeta.PoolFormer', arch='s12', drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=512),
)

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 248  # 224 / 0.9, rounded down as timm does
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
