"""UPerNet, UniFormer-S h14, ADE20K 160k: 46.9 mIoU (Sense-X/UniFormer).

48.0 at six scales with flips. Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_uniformer_small.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_uniformer_small.py \
            --auto-scale-lr
"""

_base_ = '../_base_/upernet_uniformer_ade20k_160k.py'
