"""UPerNet, UniFormer-S h32, ADE20K 160k: 47.0 mIoU (Sense-X/UniFormer).

48.5 at six scales with flips.
For testing only, with the weights of upernet_uniformer_small_global.py.
Stage 3 attends within windows of 32x32 positions, every fourth block to the whole map.
8 GPUs: bash tools/dist_test.sh \
            configs/segmentation/upernet_uniformer_small_global_test_h32.py \
            CHECKPOINT 8
1 GPU:  python tools/test.py \
            configs/segmentation/upernet_uniformer_small_global_test_h32.py \
            CHECKPOINT
"""

_base_ = 'upernet_uniformer_small_global.py'

model = dict(backbone=dict(attention='hybrid', window_size=32))
