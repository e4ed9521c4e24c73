"""RetinaNet with an FPN on the last three outputs of a MetaFormer.

Source: sail-sg/poolformer, detection/configs (2111.11418, section 4.2).
"""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    _scope_='mmdet',  # to build from any scope, as mmengine.hub does
    # The FPN starts at stage 2, so the first output's norm would be unused.
    backbone=dict(_delete_=True, fork_last3=True),
    neck=dict(
        in_channels=[64, 128, 320, 512],
        start_level=1,
        add_extra_convs='on_input',
        num_outs=5,
    ),
)
