"""MMPretrain's runtime; saves a checkpoint per epoch and keeps the last three."""

_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
