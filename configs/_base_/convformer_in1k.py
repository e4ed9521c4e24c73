"""ConvFormer on ImageNet-1k: what the four sizes share, and CAFormer with them.

Source: sail-sg/metaformer, scripts/convformer and train.py (2210.13452). The basic
models' recipe with 20 epochs of warm-up, and a hidden layer in the classifier.
"""

_base_ = 'metaformer_basic_in1k.py'

model = dict(
    backbone=dict(type='mmmeta.ConvFormer', arch='s18', drop_path_rate=0.2),
    neck=dict(ratio=4),
    head=dict(in_channels=512 * 4),
)

param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 20
param_scheduler[1].begin = 20
