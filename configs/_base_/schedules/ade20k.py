"""Loops and hooks for training on ADE20K, which counts iterations."""

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, max_keep_ckpts=3),
    visualization=dict(type='SegVisualizationHook'),
)
