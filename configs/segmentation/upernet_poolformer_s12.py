"""UPerNet, PoolFormer-S12, ADE20K 160k: no result is published.

The recipe is that of ConvFormer and CAFormer (see the base), so that the families
compare; drop path 0.1 is that of PoolFormer-S12's ImageNet training.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = '../_base_/upernet_metaformer_ade20k_160k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmeta.PoolFormer',
        arch='s12',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint='mmmeta://poolformer_s12.sail_in1k'
        ),
    ),
)
