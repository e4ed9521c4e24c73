"""Loops and hooks for training on ADE20K, which counts iterations."""

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='mmmeta.CheckpointHook', by_epoch=False, max_keep_ckpts=3),
    preemption=dict(type='mmmeta.PreemptionHook'),
    bad_steps=dict(type='mmmeta.BadStepHook'),
    # With its scope, configs that inherit this as `mmmeta::` find it, too.
    visualization=dict(_scope_='mmseg', type='SegVisualizationHook'),
)
