"""CAFormer-S36, ImageNet-1k at 224x224: 84.5 % top-1 (sail-sg/metaformer).

Batch size 4096: on 8 GPUs 512 each or, as published, four times 128.
8 GPUs: bash tools/dist_train.sh configs/classification/caformer_s36.py 8 \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=4
1 GPU:  python tools/train.py configs/classification/caformer_s36.py \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=32
"""

_base_ = 'caformer_s18.py'

model = dict(backbone=dict(arch='s36', drop_path_rate=0.3), neck=dict(dropout=0.4))
