"""ADE20K in crops of 512x512: the data and the runtime of all methods.

Source: MMSegmentation's base for ADE20K, as the published recipes use it. They repeat
the data set 50 times, so that workers are not restarted each epoch; the infinite
sampler of MMSegmentation 1 has no epochs.

`tools/test.py --tta` tests at six scales, each plain and flipped, and averages the
probabilities.
"""

_base_ = [
    'mmseg_scope.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
]

# The scales are of 2048x512, as in the published tests; those of MMSegmentation's
# base are of each image's own size.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='Resize',
                    scale=(int(2048 * ratio), int(512 * ratio)),
                    keep_ratio=True,
                )
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, max_keep_ckpts=3),
    visualization=dict(type='SegVisualizationHook'),
)
