"""ADE20K in crops of 512x512, 4 images per GPU.

Source: MMSegmentation's base for ADE20K, which the published recipes use. They repeat
the data set 50 times to avoid restarting workers each epoch; the infinite sampler of
MMSegmentation 1 has no epochs.

`tools/test.py --tta` tests at six scales, with and without flipping, and averages the
probabilities.
"""

_base_ = ['../mmseg_scope.py', 'mmseg::_base_/datasets/ade20k.py']

# The scales are relative to 2048x512, as in the published tests; in MMSegmentation's
# base they are relative to each image's own size.
tta_scales = [
    dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
    for ratio in _base_.img_ratios
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            tta_scales,
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
