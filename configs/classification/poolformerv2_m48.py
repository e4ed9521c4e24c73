"""PoolFormerV2-M48, ImageNet-1k at 224x224: 82.6 % top-1 (sail-sg/metaformer).

Batch size 4096: on 8 GPUs 512 each or, as published, four times 128.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformerv2_m48.py 8 \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=4
1 GPU:  python tools/train.py configs/classification/poolformerv2_m48.py \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=32
"""

_base_ = 'poolformerv2_m36.py'

model = dict(backbone=dict(arch='m48', drop_path_rate=0.4))
