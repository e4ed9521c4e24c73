"""PoolFormer-S12, ImageNet-1k at 224x224: 77.2 % top-1 (sail-sg/poolformer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformer_s12.py 8
1 GPU:  python tools/train.py configs/classification/poolformer_s12.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_poolformer.py',
    '../_base_/schedules/imagenet_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(type='mmmeta.PoolFormer', arch='s12', drop_path_rate=0.1))
