"""UPerNet, ConvFormer-S18, ADE20K 160k: 47.5 mIoU (MambaOut, table 3).

48.6 at several scales. Both as MambaOut (2405.07992) reports them for the MetaFormer
baselines: second-hand, and so is the recipe (see the schedule).
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/segmentation/upernet_convformer_s18.py 8
1 GPU:  python tools/train.py configs/segmentation/upernet_convformer_s18.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/models/backbones.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/upernet_metaformer_160k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(_base_.pop('backbones').convformer_s18, drop_path_rate=0.3),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

train_dataloader = dict(batch_size=2)
