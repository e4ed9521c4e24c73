"""UniFormer-S, ImageNet-1k at 224x224: 82.9 % top-1 (Sense-X/UniFormer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/uniformer_small.py 8
1 GPU:  python tools/train.py configs/classification/uniformer_small.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_uniformer.py',
    '../_base_/schedules/imagenet_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(type='mmmeta.UniFormer', arch='small', drop_path_rate=0.1))
