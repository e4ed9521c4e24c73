"""Cascade Mask R-CNN, UniFormer-S, COCO 3x: 52.1 box, 45.2 mask AP (Sense-X/UniFormer).

Multi-scale training. Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh \
            configs/detection/cascade_mask_rcnn_uniformer_small_ms_3x.py 8 --amp
1 GPU:  python tools/train.py \
            configs/detection/cascade_mask_rcnn_uniformer_small_ms_3x.py \
            --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/models/cascade_mask_rcnn.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/uniformer_3x.py',
    '../_base_/coco_runtime.py',
]

model = dict(
    backbone=dict(
        _base_.pop('backbones').uniformer_small,
        drop_path_rate=0.2,
        with_cp=[0, 0, 8, 0],
    ),
)
