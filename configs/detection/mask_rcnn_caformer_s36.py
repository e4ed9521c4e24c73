"""Mask R-CNN, CAFormer-S36, COCO 1x: no result is published.

The recipe is ours; configs/_base_/metaformer_coco_1x.py says after whom.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_caformer_s36.py 8
1 GPU:  python tools/train.py configs/detection/mask_rcnn_caformer_s36.py \
            --auto-scale-lr
"""

_base_ = ['../_base_/mask_rcnn.py', '../_base_/metaformer_coco_1x.py']

model = dict(
    backbone=dict(
        type='mmmeta.CAFormer',
        arch='s36',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='mmmeta://caformer_s36.sail_in1k'),
    ),
)
