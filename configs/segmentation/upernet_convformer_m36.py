"""UPerNet, ConvFormer-M36, ADE20K 160k: 50.4 mIoU (MambaOut, table 3).

51.3 at several scales. Both as MambaOut (2405.07992) reports them for the MetaFormer
baselines: second-hand, and so is the recipe (see the schedule).
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_convformer_m36.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_convformer_m36.py \
            --auto-scale-lr
"""

_base_ = ['upernet_convformer_s18.py', '../_base_/models/backbones.py']

model = dict(
    backbone=_base_.pop('backbones').convformer_m36,
    decode_head=dict(in_channels=[96, 192, 384, 576]),
    auxiliary_head=dict(in_channels=384),
)
