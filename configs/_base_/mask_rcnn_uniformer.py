"""Mask R-CNN with UniFormer: the model alone.

Source: Sense-X/UniFormer, object_detection/exp. In stage 3 every fourth block attends
to the whole map, the others to windows of 14 positions. `with_cp` counts the blocks
of stage 3 that recompute their activations to save memory, which changes no result.
The weights are ImageNet-1k's without token labelling and without layer scale.
"""

_base_ = 'mask_rcnn.py'

model = dict(backbone=dict(type='mmmeta.UniFormer', attention='hybrid', window_size=14))
