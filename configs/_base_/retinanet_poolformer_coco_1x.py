"""RetinaNet with PoolFormer on COCO, 1x: what the three sizes share.

Source: sail-sg/poolformer, detection/configs (2111.11418, section 4.2). AdamW
with learning rate 1e-4 and weight decay 1e-4 on every parameter, no gradient
clipping, 12 epochs with steps at 8 and 11, 500 iterations of linear warm-up,
batch size 16 (8 GPUs x 2), 1333x800, no drop path, float32.
"""

_base_ = [
    'retinanet_poolformer.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
