"""Cascade Mask R-CNN with an FPN on four outputs of a MetaFormer.

MMDetection's settings with the box heads of Sense-X/UniFormer, which are those of
Swin Transformer (2103.14030, section 4.2): four convolutions with synchronized batch
norm and one hidden layer each, class-specific regression, GIoU loss on decoded boxes.
"""

_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'

model = dict(
    _scope_='mmdet',  # to build from any scope, as mmengine.hub does
    backbone=dict(
        _delete_=True,
        # The FPN uses all four outputs, so each needs its norm, whatever the
        # environment variable FORK_LAST3 is.
        fork_last3=False,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    roi_head=dict(
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=target_stds,
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(
                    type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0
                ),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for target_stds in (
                [0.1, 0.1, 0.2, 0.2],
                [0.05, 0.05, 0.1, 0.1],
                [0.033, 0.033, 0.067, 0.067],
            )
        ]
    ),
)
