"""A short training on the embedded shapes, from random weights, on a CPU."""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min_ratio=0.02,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    # Layer scale starts at 1e-5: at the common learning rate the blocks would have no
    # effect for most of this short training.
    paramwise_cfg=dict(custom_keys={'layer_scale': dict(lr_mult=50.0, decay_mult=0.0)}),
    clip_grad=dict(max_norm=10, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=4)
