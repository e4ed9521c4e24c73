"""Semantic FPN with UniFormer on ADE20K, 80k: settings shared by all variants.

Source: Sense-X/UniFormer, semantic_segmentation/fpn_seg/exp (2201.09450, section 4.4).
80,000 iterations, a cosine with 1000 iterations of warm-up, trained and tested with
hybrid attention, windows of 14x14 positions. The authors say that freezing the batch
norms (`model.backbone.norm_eval=True`) would be better, but did not do so.
"""

_base_ = 'semantic_fpn.py'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=4000)
# Both start together and multiply, as in the reference.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1000, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-8,
        T_max=80000,
        begin=0,
        end=80000,
        by_epoch=False,
    ),
]
