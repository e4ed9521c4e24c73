"""UPerNet, ConvFormer-S18, ADE20K 160k: 47.5 mIoU (MambaOut, table 3).

48.6 at several scales. Both as MambaOut (2405.07992) reports them for the MetaFormer
baselines: second-hand, and so is the recipe (see the base).
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_convformer_s18.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_convformer_s18.py \
            --auto-scale-lr
"""

_base_ = '../_base_/upernet_convformer_ade20k_160k.py'
