"""Semantic FPN with PoolFormer on ADE20K, 40k: settings shared by the five sizes.

Source: sail-sg/poolformer, segmentation/configs (2111.11418, section 4.3). 40,000
iterations, polynomial decay of the learning rate to 0 with power 0.9, no warm-up, no
drop path, nothing frozen.

MMSegmentation retrained the same models (pull request 2191). Its mIoU with the stem
frozen and in mixed precision, mean and standard deviation of five runs: S12
36.45 +- 0.35, S24 39.81 +- 0.42, S36 40.98 +- 0.32, M36 42.10 +- 0.45, M48 42.12 +-
0.28. It is unknown why most are below the published ones.
"""

_base_ = 'semantic_fpn.py'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=40000, by_epoch=False),
]
