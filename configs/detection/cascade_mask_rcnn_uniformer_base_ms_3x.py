"""Cascade Mask R-CNN, UniFormer-B, COCO 3x: 53.8 box, 46.4 mask AP (Sense-X/UniFormer).

Multi-scale training. Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh \
            configs/detection/cascade_mask_rcnn_uniformer_base_ms_3x.py 8 --amp
1 GPU:  python tools/train.py \
            configs/detection/cascade_mask_rcnn_uniformer_base_ms_3x.py \
            --amp --auto-scale-lr
"""

_base_ = ['cascade_mask_rcnn_uniformer_small_ms_3x.py', '../_base_/models/backbones.py']

model = dict(
    backbone=dict(
        _base_.pop('backbones').uniformer_base,
        drop_path_rate=0.4,
        with_cp=[0, 0, 20, 0],
    ),
)
