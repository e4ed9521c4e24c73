"""RetinaNet, PoolFormer-S12, on the embedded shapes.

From random weights, in minutes, on a CPU:
    python -m mmmeta.datasets --root data/shapes
    python tools/train.py configs/detection/retinanet_poolformer_s12_shapes.py
"""

_base_ = [
    '../_base_/models/retinanet.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes_detection.py',
    '../_base_/shapes_runtime.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _base_.pop('backbones').poolformer_s12, drop_path_rate=0.0, init_cfg=None
    ),
    # Without pretrained weights, a detector needs norms in the neck and head to start
    # learning within minutes; narrower layers are cheaper on a CPU.
    neck=dict(out_channels=128, norm_cfg=dict(type='GN', num_groups=16), num_outs=4),
    bbox_head=dict(
        num_classes=6,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(
            octave_base_scale=2, ratios=[1.0], strides=[8, 16, 32, 64]
        ),
        loss_cls=dict(gamma=1.5, alpha=0.5),
    ),
    # More positive anchors, which have more weight in the loss above: in such a short
    # training each of these about doubles the detections.
    train_cfg=dict(assigner=dict(pos_iou_thr=0.4, neg_iou_thr=0.3)),
)

# For reproducibility: the result of such a short training depends on the seed.
randomness = dict(seed=103924416)
