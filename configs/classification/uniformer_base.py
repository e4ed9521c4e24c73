"""UniFormer-B, ImageNet-1k at 224x224: 83.8 % top-1 (Sense-X/UniFormer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/uniformer_base.py 8
1 GPU:  python tools/train.py configs/classification/uniformer_base.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = 'uniformer_small.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.3))

# 4e-4 for 512 images
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 8e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
