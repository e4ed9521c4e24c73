"""Semantic FPN on four outputs of a MetaFormer, in crops of 512x512, for ADE20K.

Source: PVT, which sail-sg/poolformer and Sense-X/UniFormer follow. The channels are
those of all sizes except PoolFormer-M36 and M48.
"""

_base_ = ['../mmseg_scope.py', 'mmseg::_base_/models/fpn_r50.py']

data_preprocessor = dict(size=(512, 512))
model = dict(
    _scope_='mmseg',  # to build from any scope, as mmengine.hub does
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)
