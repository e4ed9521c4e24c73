"""MMDetection's runtime, with checkpoints that a crash does not lose.

The hooks are described in docs/reliability.md.
"""

_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='mmmeta.CheckpointHook'),
    preemption=dict(type='mmmeta.PreemptionHook'),
    bad_steps=dict(type='mmmeta.BadStepHook'),
)
