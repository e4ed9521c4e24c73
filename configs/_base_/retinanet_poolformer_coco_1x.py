"""RetinaNet with PoolFormer on COCO, 1x: what the three sizes share.

Source: sail-sg/poolformer, detection/configs (2111.11418, section 4.2). AdamW
with learning rate 1e-4 and weight decay 1e-4 on every parameter, no gradient
clipping, 12 epochs with steps at 8 and 11, 500 iterations of linear warm-up,
batch size 16 (8 GPUs x 2), 1333x800, no drop path, float32.
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    _scope_='mmdet',  # so that it builds from any scope, as mmengine.hub does it
    backbone=dict(
        _delete_=True,
        type='mmmeta.PoolFormer',
        arch='s12',
        # The FPN starts at stage 2, so the first output's norm would be unused.
        fork_last3=True,
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained', checkpoint='mmmeta://poolformer_s12.sail_in1k'
        ),
    ),
    neck=dict(
        in_channels=[64, 128, 320, 512],
        start_level=1,
        add_extra_convs='on_input',
        num_outs=5,
    ),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
