"""Mask R-CNN, UniFormer-B, COCO 1x: 47.4 box, 43.1 mask AP (Sense-X/UniFormer).

Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_uniformer_base.py 8 --amp
1 GPU:  python tools/train.py configs/detection/mask_rcnn_uniformer_base.py \
            --amp --auto-scale-lr
"""

_base_ = ['../_base_/mask_rcnn_uniformer.py', '../_base_/coco_instance_1x.py']

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='mmmeta://uniformer_base.sensex_in1k'),
    )
)
