"""Semantic FPN, UniFormer-S h14, ADE20K 80k: 46.3 mIoU (Sense-X/UniFormer).

Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_uniformer_small.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_uniformer_small.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/ade20k_aligned.py',
    '../_base_/schedules/semantic_fpn_uniformer_80k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(backbone=dict(_base_.pop('backbones').uniformer_small, drop_path_rate=0.1))
