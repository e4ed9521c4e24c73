"""UniFormer on COCO, 3x: 36 epochs with steps at 27 and 33, otherwise like 1x.

Source: Sense-X/UniFormer, object_detection/exp, after Swin Transformer.
"""

_base_ = 'uniformer_1x.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(
        _scope_='mmdet',
        type='LinearLR',
        start_factor=0.001,
        by_epoch=False,
        begin=0,
        end=500,
    ),
    dict(
        _scope_='mmdet',
        type='MultiStepLR',
        begin=0,
        end=36,
        by_epoch=True,
        milestones=[27, 33],
        gamma=0.1,
    ),
]
