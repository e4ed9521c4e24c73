"""Semantic FPN, UniFormer-S global, ADE20K 80k: 46.6 mIoU (Sense-X/UniFormer).

Batch size 32: on 8 GPUs 4 each.
The same weights in windows: the two `_test_` configs in this folder.
8 GPUs: bash tools/dist_train.sh \
            configs/segmentation/semantic_fpn_uniformer_small_global.py 8
1 GPU:  python tools/train.py \
            configs/segmentation/semantic_fpn_uniformer_small_global.py \
            --auto-scale-lr
"""

_base_ = 'semantic_fpn_uniformer_small.py'

model = dict(backbone=dict(attention='global'))
