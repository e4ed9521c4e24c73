"""ConvFormer-S18, ImageNet-1k at 384x384: 84.4 % top-1 (sail-sg/metaformer).

Batch size 1024: on 8 GPUs 128 each or, as published, four times 32.
8 GPUs: bash tools/dist_train.sh configs/classification/convformer_s18_384.py 8 \
            --cfg-options train_dataloader.batch_size=32 \
            optim_wrapper.accumulative_counts=4 custom_hooks.0.interval=4
1 GPU:  python tools/train.py configs/classification/convformer_s18_384.py \
            --cfg-options train_dataloader.batch_size=32 \
            optim_wrapper.accumulative_counts=32 custom_hooks.0.interval=32
"""

_base_ = [
    '../_base_/models/metaformer_classifier.py',
    '../_base_/datasets/imagenet_metaformer_384.py',
    '../_base_/schedules/imagenet_metaformer_30e.py',
    '../_base_/imagenet_runtime.py',
]

# Not the backbone's init_cfg, because the classifier's own layers are loaded too, and
# because this is read only for training: inference and resumed runs download nothing.
load_from = 'mmmeta://convformer_s18.sail_in1k'

model = dict(
    backbone=dict(type='mmmeta.ConvFormer', arch='s18', drop_path_rate=0.3),
    neck=dict(ratio=4, dropout=0.4),
    head=dict(in_channels=512 * 4),
    train_cfg=None,
)
