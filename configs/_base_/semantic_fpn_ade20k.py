"""Semantic FPN on ADE20K: what the families share.

Source: PVT's recipe, which sail-sg/poolformer and Sense-X/UniFormer follow. Batch size
32 (8 GPUs x 4), AdamW with learning rate 2e-4 and weight decay 1e-4 on every parameter,
no gradient clipping, float32. One GPU with the memory for it trains the same with
`--cfg-options train_dataloader.batch_size=32`; with four images on one GPU and
`--auto-scale-lr`, as many iterations see an eighth of the images.
"""

_base_ = ['ade20k_512x512.py', 'mmseg::_base_/models/fpn_r50.py']

data_preprocessor = dict(size=_base_.crop_size)
model = dict(
    _scope_='mmseg',  # so that it builds from any scope, as mmengine.hub does it
    data_preprocessor=data_preprocessor,
    pretrained=None,
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)

# To multiples of 32 in the test, as PVT's AlignResize: MMSegmentation measured 0.2 to
# 0.4 mIoU more with PoolFormer than without.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(1, [test_pipeline[2]])
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
default_hooks = dict(checkpoint=dict(interval=4000))
