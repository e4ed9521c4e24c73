"""UPerNet, UniFormer-B global, ADE20K 160k: 50.0 mIoU (Sense-X/UniFormer).

50.8 at six scales with flips. Batch size 16: on 8 GPUs 2 each.
The same weights in windows: the two `_test_` configs in this folder.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_uniformer_base_global.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_uniformer_base_global.py \
            --auto-scale-lr
"""

_base_ = 'upernet_uniformer_base.py'

model = dict(backbone=dict(attention='global'))
