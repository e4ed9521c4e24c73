"""UPerNet, UniFormer-S h14, ADE20K 160k: 46.9 mIoU (Sense-X/UniFormer).

48.0 at six scales with flips. Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_uniformer_small.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_uniformer_small.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_uniformer_160k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(_base_.pop('backbones').uniformer_small, drop_path_rate=0.25),
)

train_dataloader = dict(batch_size=2)
