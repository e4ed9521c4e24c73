"""PoolFormerV2-S12, ImageNet-1k at 224x224: 78.0 % top-1 (sail-sg/metaformer).

Batch size 4096: on 8 GPUs 512 each or, as published, four times 128.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformerv2_s12.py 8 \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=4
1 GPU:  python tools/train.py configs/classification/poolformerv2_s12.py \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=32
"""

_base_ = [
    '../_base_/models/metaformer_classifier.py',
    '../_base_/datasets/imagenet_metaformer.py',
    '../_base_/schedules/imagenet_metaformer_300e.py',
    '../_base_/imagenet_runtime.py',
]

model = dict(backbone=dict(type='mmmeta.PoolFormerV2', arch='s12', drop_path_rate=0.1))
