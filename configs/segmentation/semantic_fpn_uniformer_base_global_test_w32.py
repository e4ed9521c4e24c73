"""Semantic FPN, UniFormer-B w32, ADE20K 80k: 47.0 mIoU (Sense-X/UniFormer).

For testing only, with the weights of semantic_fpn_uniformer_base_global.py.
Stage 3 attends within windows of 32x32 positions.
8 GPUs: bash tools/dist_test.sh \
            configs/segmentation/semantic_fpn_uniformer_base_global_test_w32.py \
            CHECKPOINT 8
1 GPU:  python tools/test.py \
            configs/segmentation/semantic_fpn_uniformer_base_global_test_w32.py \
            CHECKPOINT
"""

_base_ = 'semantic_fpn_uniformer_base_global.py'

model = dict(backbone=dict(attention='window', window_size=32))
