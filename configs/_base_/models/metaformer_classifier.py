"""The classifier of MetaFormer Baselines (2210.13452): a norm after the pooling.

ConvFormer and CAFormer also have a hidden layer, `ratio` times as wide.
"""

_base_ = 'classifier.py'

model = dict(
    neck=dict(_delete_=True, type='mmmeta.MetaFormerNeck', dim=512, ratio=None),
)
