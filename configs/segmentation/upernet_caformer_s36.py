"""UPerNet, CAFormer-S36, ADE20K 160k: 50.6 mIoU (MambaOut, table 3).

50.8 at several scales. Both as MambaOut (2405.07992) reports them for the MetaFormer
baselines: second-hand, and so is the recipe (see the schedule).
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_caformer_s36.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_caformer_s36.py \
            --auto-scale-lr
"""

_base_ = ['upernet_convformer_s18.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').caformer_s36)
