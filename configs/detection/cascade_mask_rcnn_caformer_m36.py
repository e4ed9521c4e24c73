"""Cascade Mask R-CNN, CAFormer-M36, COCO 1x: no result is published.

The recipe is ours; configs/_base_/metaformer_coco_1x.py says after whom.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/cascade_mask_rcnn_caformer_m36.py 8
1 GPU:  python tools/train.py configs/detection/cascade_mask_rcnn_caformer_m36.py \
            --auto-scale-lr
"""

_base_ = ['../_base_/cascade_mask_rcnn.py', '../_base_/metaformer_coco_1x.py']

model = dict(
    backbone=dict(
        type='mmmeta.CAFormer',
        arch='m36',
        drop_path_rate=0.4,
        init_cfg=dict(checkpoint='mmmeta://caformer_m36.sail_in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
