"""UPerNet with UniFormer on ADE20K, 160k: settings shared by all variants.

Source: Sense-X/UniFormer, semantic_segmentation/exp (2201.09450, section 4.4). AdamW
with learning rate 6e-5, weight decay 0.01 except on norms, trained and tested with
hybrid attention, windows of 14x14 positions.
"""

_base_ = 'upernet_160k.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # Only the backbone's: the heads' norms are named bn, and the reference decays them.
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)
