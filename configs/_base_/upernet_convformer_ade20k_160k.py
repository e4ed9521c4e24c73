"""UPerNet with ConvFormer on ADE20K, 160k: what the sizes share, CAFormer's too.

Source: as the base. Its drop path 0.3 is for S18; no other is known for S36 and M36.
"""

_base_ = 'upernet_metaformer_ade20k_160k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmmeta.ConvFormer',
        arch='s18',
        drop_path_rate=0.3,
        init_cfg=dict(
            type='Pretrained', checkpoint='mmmeta://convformer_s18.sail_in1k'
        ),
    ),
)
