"""UPerNet, CAFormer-S18, ADE20K 160k: 48.1 mIoU (MambaOut, table 3).

48.9 at several scales. Both as MambaOut (2405.07992) reports them for the MetaFormer
baselines: second-hand, and so is the recipe (see the schedule).
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_caformer_s18.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_caformer_s18.py \
            --auto-scale-lr
"""

_base_ = ['upernet_convformer_s18.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').caformer_s18)
