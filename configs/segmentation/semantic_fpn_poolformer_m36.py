"""Semantic FPN, PoolFormer-M36, ADE20K 40k: 42.4 mIoU (sail-sg/poolformer).

MMSegmentation reports 42.35 for its own weights and 41.6 to 42.8 in five later runs.
Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_poolformer_m36.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_poolformer_m36.py \
            --auto-scale-lr
"""

_base_ = ['semantic_fpn_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(
    backbone=_base_.pop('backbones').poolformer_m36,
    neck=dict(in_channels=[96, 192, 384, 768]),
)
