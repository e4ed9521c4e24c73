"""Mask R-CNN with an FPN on four outputs of a MetaFormer.

MMDetection's settings; the channels are those of all sizes except M36 and B36.
"""

_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    _scope_='mmdet',  # to build from any scope, as mmengine.hub does
    backbone=dict(
        _delete_=True,
        # The FPN uses all four outputs, so each needs its norm, whatever the
        # environment variable FORK_LAST3 is.
        fork_last3=False,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
