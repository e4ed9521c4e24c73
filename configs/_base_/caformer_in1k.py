"""CAFormer on ImageNet-1k: what the four sizes share.

Source: sail-sg/metaformer, scripts/caformer and train.py (2210.13452). ConvFormer's
recipe with LAMB and twice the learning rate. The scripts train in float32; for B36
in mixed precision a NaN was reported (sail-sg/metaformer, issue 20).
"""

_base_ = 'convformer_in1k.py'

model = dict(backbone=dict(type='mmmeta.CAFormer', arch='s18', drop_path_rate=0.15))

# Clips the norm of all gradients at 1 by itself, as timm's does.
optim_wrapper = dict(optimizer=dict(type='Lamb', lr=8e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-6 / 8e-3
