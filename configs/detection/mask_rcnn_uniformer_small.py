"""Mask R-CNN, UniFormer-S, COCO 1x: 45.6 box, 41.6 mask AP (Sense-X/UniFormer).

Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_uniformer_small.py 8 --amp
1 GPU:  python tools/train.py configs/detection/mask_rcnn_uniformer_small.py \
            --amp --auto-scale-lr
"""

_base_ = ['mask_rcnn_uniformer_base.py', '../_base_/models/backbones.py']

model = dict(
    backbone=dict(
        _base_.pop('backbones').uniformer_small,
        drop_path_rate=0.2,
        with_cp=[0, 0, 8, 0],
    ),
)
