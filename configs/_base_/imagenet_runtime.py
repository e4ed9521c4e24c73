"""MMPretrain's runtime; saves a checkpoint per epoch and keeps the last three."""

_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='mmmeta.CheckpointHook', max_keep_ckpts=3),
    preemption=dict(type='mmmeta.PreemptionHook'),
    bad_steps=dict(type='mmmeta.BadStepHook'),
)
