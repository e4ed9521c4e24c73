"""Semantic FPN, PoolFormer-S36, ADE20K 40k: 42.0 mIoU (sail-sg/poolformer).

MMSegmentation reports 41.81 for its own weights and 40.6 to 41.3 in five later runs.
Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_poolformer_s36.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_poolformer_s36.py \
            --auto-scale-lr
"""

_base_ = ['semantic_fpn_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').poolformer_s36)
