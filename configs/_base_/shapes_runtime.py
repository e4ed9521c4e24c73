"""MMDetection's runtime for short training runs on the embedded shapes."""

_base_ = 'coco_runtime.py'

default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(max_keep_ckpts=1),
)
