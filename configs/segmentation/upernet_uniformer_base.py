"""UPerNet, UniFormer-B h14, ADE20K 160k: 48.9 mIoU (Sense-X/UniFormer).

50.0 at six scales with flips. Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_uniformer_base.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_uniformer_base.py \
            --auto-scale-lr
"""

_base_ = ['upernet_uniformer_small.py', '../_base_/models/backbones.py']

model = dict(
    backbone=dict(
        _base_.pop('backbones').uniformer_base,
        drop_path_rate=0.4,
        with_cp=[0, 0, 2, 0],
    ),
)
