"""ConvFormer-B36, ImageNet-1k at 224x224: 84.8 % top-1 (sail-sg/metaformer).

Batch size 4096: on 8 GPUs 512 each or, as published, four times 128.
8 GPUs: bash tools/dist_train.sh configs/classification/convformer_b36.py 8 \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=4
1 GPU:  python tools/train.py configs/classification/convformer_b36.py \
            --cfg-options train_dataloader.batch_size=128 \
            optim_wrapper.accumulative_counts=32
"""

_base_ = 'convformer_s18.py'

model = dict(
    backbone=dict(arch='b36', drop_path_rate=0.6),
    neck=dict(dim=768),
    head=dict(in_channels=768 * 4),
)
