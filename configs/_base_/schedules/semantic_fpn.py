"""Semantic FPN on ADE20K: settings shared by all families.

Source: PVT's recipe, which sail-sg/poolformer and Sense-X/UniFormer follow. Batch size
32 (8 GPUs x 4), AdamW with learning rate 2e-4 and weight decay 1e-4 on every parameter,
no gradient clipping, float32. One GPU with enough memory trains the same way with
`--cfg-options train_dataloader.batch_size=32`; with four images on one GPU and
`--auto-scale-lr`, the same number of iterations sees an eighth of the images.
"""

_base_ = 'ade20k.py'

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
default_hooks = dict(checkpoint=dict(interval=4000))
