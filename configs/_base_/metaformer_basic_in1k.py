"""IdentityFormer, RandFormer and PoolFormerV2 on ImageNet-1k: what they share.

Source: sail-sg/metaformer, scripts/ and train.py (2210.13452). AdamW, batch size
4096, learning rate 4e-3.
"""

_base_ = 'imagenet_metaformer.py'

model = dict(
    backbone=dict(arch='s12', drop_path_rate=0.1),
    neck=dict(type='mmmeta.MetaFormerNeck', dim=512, ratio=None),
    head=dict(in_channels=512),
)

train_dataloader = dict(batch_size=512)
auto_scale_lr = dict(base_batch_size=4096)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-6 / 4e-3

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 224  # the whole shorter side
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
