"""PoolFormer-M48, ImageNet-1k at 224x224: 82.5 % top-1 (sail-sg/poolformer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformer_m48.py 8
1 GPU:  python tools/train.py configs/classification/poolformer_m48.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = 'poolformer_m36.py'

model = dict(backbone=dict(arch='m48', drop_path_rate=0.4))
