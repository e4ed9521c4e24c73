"""Mask R-CNN, PoolFormer-S12, COCO 1x: 37.3 box, 34.6 mask AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/detection/mask_rcnn_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = '../_base_/mask_rcnn_poolformer_coco_1x.py'
