"""Mask R-CNN with PoolFormer: the model alone.

Source: sail-sg/poolformer, detection/configs (2111.11418, section 4.2).
"""

_base_ = 'mask_rcnn.py'

model = dict(
    backbone=dict(
        type='mmmeta.PoolFormer',
        arch='s12',
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='mmmeta://poolformer_s12.sail_in1k'),
    )
)
