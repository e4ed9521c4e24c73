"""Mask R-CNN, PoolFormer-S36, COCO 1x: 41.0 box, 37.7 mask AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s36.py 8
1 GPU:  python tools/train.py configs/detection/mask_rcnn_poolformer_s36.py \
            --auto-scale-lr
"""

_base_ = ['mask_rcnn_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').poolformer_s36)
