"""300 epochs of ImageNet-1k: PoolFormer's and UniFormer's, the base of the others.

Source: the training scripts of sail-sg/poolformer (2111.11418), sail-sg/metaformer and
Sense-X/UniFormer (2201.09450), which are timm's with DeiT's settings. 300 epochs of
AdamW with learning rate 1e-3, weight decay 0.05, batch size 1024, 5 epochs of warm-up
from 1e-6, a cosine to 1e-5; RandAugment, mixup or cutmix, random erasing, label
smoothing; no gradient clipping, float32 (`--amp` for mixed precision). timm's warm-up
has one step per epoch, and sail-sg adds ten epochs at the lowest rate; both are omitted
here, as in MMPretrain.

UniFormer's authors trained in mixed precision (`--amp`). They also kept an average of
the weights, but report the accuracy of the raw weights.
"""

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    # As in timm: no decay of one-dimensional parameters (norms, biases, scales).
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
