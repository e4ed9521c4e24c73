"""CAFormer-S18, ImageNet-1k at 384x384: 85.0 % top-1 (sail-sg/metaformer).

Batch size 1024: on 8 GPUs 128 each or, as published, four times 32.
8 GPUs: bash tools/dist_train.sh configs/classification/caformer_s18_384.py 8 \
            --cfg-options train_dataloader.batch_size=32 \
            optim_wrapper.accumulative_counts=4 custom_hooks.0.interval=4
1 GPU:  python tools/train.py configs/classification/caformer_s18_384.py \
            --cfg-options train_dataloader.batch_size=32 \
            optim_wrapper.accumulative_counts=32 custom_hooks.0.interval=32
"""

_base_ = 'convformer_s18_384.py'

load_from = 'mmmeta://caformer_s18.sail_in1k'

model = dict(backbone=dict(type='mmmeta.CAFormer'))

# Source: scripts/caformer/finetune_*_384.sh: LAMB with twice ConvFormer's rate.
optim_wrapper = dict(optimizer=dict(type='mmpretrain.Lamb', lr=1e-4))
