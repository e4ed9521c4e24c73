"""UniFormer-S+, ImageNet-1k at 224x224: 83.4 % top-1 (Sense-X/UniFormer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/uniformer_small_plus.py 8
1 GPU:  python tools/train.py configs/classification/uniformer_small_plus.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = 'uniformer_small.py'

model = dict(backbone=dict(arch='small_plus'))
