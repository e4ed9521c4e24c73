"""Mask R-CNN, UniFormer-B, COCO 3x: 50.3 box, 44.8 mask AP (Sense-X/UniFormer).

Multi-scale training. Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh \
            configs/detection/mask_rcnn_uniformer_base_ms_3x.py 8 --amp
1 GPU:  python tools/train.py configs/detection/mask_rcnn_uniformer_base_ms_3x.py \
            --amp --auto-scale-lr
"""

_base_ = ['mask_rcnn_uniformer_small_ms_3x.py', '../_base_/models/backbones.py']

model = dict(
    backbone=dict(
        _base_.pop('backbones').uniformer_base,
        drop_path_rate=0.3,
        with_cp=[0, 0, 20, 0],
    ),
)
