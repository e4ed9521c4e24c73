"""UPerNet on four outputs of a MetaFormer, in crops of 512x512, for ADE20K.

Source: Swin, which Sense-X/UniFormer and PolyNeXt follow. The channels are those of all
sizes except ConvFormer-M36 and CAFormer-M36.
"""

_base_ = ['../mmseg_scope.py', 'mmseg::_base_/models/upernet_r50.py']

data_preprocessor = dict(size=(512, 512))
model = dict(
    _scope_='mmseg',  # to build from any scope, as mmengine.hub does
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
)
