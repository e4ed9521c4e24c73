"""PoolFormer on COCO, 1x.

Source: sail-sg/poolformer, detection/configs (2111.11418, section 4.2). AdamW with
weight decay 1e-4 on every parameter and learning rate 1e-4 (2e-4 for Mask R-CNN); no
gradient clipping, 12 epochs with steps at 8 and 11, 500 iterations of linear warm-up,
batch size 16 (8 GPUs x 2), float32. No drop path.
"""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
