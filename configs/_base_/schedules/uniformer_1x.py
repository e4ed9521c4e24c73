"""UniFormer on COCO, 1x; also the base of ConvFormer's and CAFormer's.

Source: Sense-X/UniFormer, object_detection/exp, after Swin Transformer. AdamW with
learning rate 1e-4 and weight decay 0.05, none on norms (biases elsewhere are
decayed), no gradient clipping, 12 epochs with steps at 8 and 11, 500 iterations of
linear warm-up, batch size 16 (8 GPUs x 2). UniFormer was trained in mixed precision
(`--amp`). In its configs `with_cp` is the number of blocks in stage 3 that recompute
their activations to save memory, which does not change results.
"""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    ),
    # By name, as in the reference: the batch norms of a cascade's box heads are named
    # `bn` and keep their weight decay.
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)
