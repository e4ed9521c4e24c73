"""Semantic FPN, UniFormer-B h14, ADE20K 80k: 47.0 mIoU (Sense-X/UniFormer).

Batch size 32: on 8 GPUs 4 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/semantic_fpn_uniformer_base.py 8
1 GPU:  python tools/train.py configs/segmentation/semantic_fpn_uniformer_base.py \
            --auto-scale-lr
"""

_base_ = '../_base_/semantic_fpn_uniformer_ade20k_80k.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='mmmeta://uniformer_base.sensex_in1k'),
    ),
)
