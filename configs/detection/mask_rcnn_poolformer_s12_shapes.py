"""Mask R-CNN, PoolFormer-S12, on the embedded shapes, boxes and masks.

From random weights, on a CPU:
    python -m mmmeta.datasets --root data/shapes
    python tools/train.py configs/detection/mask_rcnn_poolformer_s12_shapes.py
"""

_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/shapes_detection.py',
    '../_base_/shapes_runtime.py',
]

num_classes = 6
width = 128  # channels of neck and heads; MMDetection's are 256
norm_cfg = dict(type='GN', num_groups=16)

model = dict(
    backbone=dict(
        _base_.pop('backbones').poolformer_s12, drop_path_rate=0.0, init_cfg=None
    ),
    # Without pretrained weights, a detector needs norms in the neck and heads to start
    # learning within minutes; narrower layers are cheaper on a CPU.
    neck=dict(out_channels=width, norm_cfg=norm_cfg, num_outs=4),
    # Objects measure 15 to 65 pixels; MMDetection's anchors start at 32.
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # In such small images nearly every box would come from the first level.
        bbox_roi_extractor=dict(out_channels=width, finest_scale=16),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=width,
            conv_out_channels=width,
            fc_out_channels=256,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(out_channels=width, finest_scale=16),
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
        ),
    ),
    # Images with few objects need fewer proposals.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

# For reproducibility: the result of such a short training depends on the seed.
randomness = dict(seed=0)
