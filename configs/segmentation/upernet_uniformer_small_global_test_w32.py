"""UPerNet, UniFormer-S w32, ADE20K 160k: 46.6 mIoU (Sense-X/UniFormer).

48.4 at six scales with flips.
For testing only, with the weights of upernet_uniformer_small_global.py.
Stage 3 attends within windows of 32x32 positions.
8 GPUs: bash tools/dist_test.sh \
            configs/segmentation/upernet_uniformer_small_global_test_w32.py \
            CHECKPOINT 8
1 GPU:  python tools/test.py \
            configs/segmentation/upernet_uniformer_small_global_test_w32.py \
            CHECKPOINT
"""

_base_ = 'upernet_uniformer_small_global.py'

model = dict(backbone=dict(attention='window', window_size=32))
