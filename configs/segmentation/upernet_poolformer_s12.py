"""UPerNet, PoolFormer-S12, ADE20K 160k: no result is published.

The recipe is that of ConvFormer and CAFormer (see the schedule), so that the families
compare; drop path 0.1 is that of PoolFormer-S12's ImageNet training.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = ['upernet_convformer_s18.py', '../_base_/models/backbones.py']

model = dict(backbone=dict(_base_.pop('backbones').poolformer_s12, drop_path_rate=0.1))
