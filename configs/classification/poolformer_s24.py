"""PoolFormer-S24, ImageNet-1k at 224x224: 80.3 % top-1 (sail-sg/poolformer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformer_s24.py 8
1 GPU:  python tools/train.py configs/classification/poolformer_s24.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = 'poolformer_s12.py'

model = dict(backbone=dict(arch='s24'))
