"""Semantic FPN, PoolFormer-S12, ADE20K 40k: 37.2 mIoU (sail-sg/poolformer).

MMSegmentation reports 37.07 for its own weights and 36.1 to 37.0 in five later runs.
Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/ade20k_aligned.py',
    '../_base_/schedules/semantic_fpn_poolformer_40k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(backbone=dict(_base_.pop('backbones').poolformer_s12, drop_path_rate=0.0))
