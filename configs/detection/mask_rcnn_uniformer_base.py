"""Mask R-CNN, UniFormer-B, COCO 1x: 47.4 box, 43.1 mask AP (Sense-X/UniFormer).

Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_uniformer_base.py 8 --amp
1 GPU:  python tools/train.py configs/detection/mask_rcnn_uniformer_base.py \
            --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/models/backbones.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/uniformer_1x.py',
    '../_base_/coco_runtime.py',
]

model = dict(backbone=dict(_base_.pop('backbones').uniformer_base, drop_path_rate=0.3))
