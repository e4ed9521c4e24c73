"""Semantic FPN, PoolFormer-S24, ADE20K 40k: 40.3 mIoU (sail-sg/poolformer).

MMSegmentation reports 40.36 for its own weights and 39.4 to 40.4 in five later runs.
Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_poolformer_s24.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_poolformer_s24.py \
            --auto-scale-lr
"""

_base_ = ['semantic_fpn_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').poolformer_s24)
