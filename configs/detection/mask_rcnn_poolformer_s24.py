"""Mask R-CNN, PoolFormer-S24, COCO 1x: 40.1 box, 37.0 mask AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s24.py 8
1 GPU:  python tools/train.py configs/detection/mask_rcnn_poolformer_s24.py \
            --auto-scale-lr
"""

_base_ = ['mask_rcnn_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').poolformer_s24)
