"""PoolFormer-M36, ImageNet-1k at 224x224: 82.1 % top-1 (sail-sg/poolformer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/poolformer_m36.py 8
1 GPU:  python tools/train.py configs/classification/poolformer_m36.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = '../_base_/poolformer_in1k.py'

model = dict(backbone=dict(arch='m36', drop_path_rate=0.3), head=dict(in_channels=768))

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 235  # 224 / 0.95, rounded down as timm does
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
