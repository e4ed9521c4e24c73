"""The backbones of all detectors and segmentors, one per row.

A config selects its backbone, using `pop` to remove the table, which would otherwise
remain in the config, and adds settings of the recipe such as the drop path rate:

    model = dict(backbone=dict(_base_.pop('backbones').caformer_s18, with_cp=True))

The weights are trained on ImageNet-1k at 224x224; UniFormer's without token labeling
and layer scale. In stage 3 UniFormer attends to windows of 14 positions, except in
every fourth block, which attends to the whole map (Sense-X/UniFormer).
"""

backbones = {
    f'{family.lower()}_{arch}': dict(
        type=f'mmmeta.{family}',
        arch=arch,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'mmmeta://{family.lower()}_{arch}.{publisher}_in1k',
        ),
        **settings,
    )
    for family, archs, publisher, settings in (
        ('PoolFormer', ('s12', 's24', 's36', 'm36', 'm48'), 'sail', {}),
        ('ConvFormer', ('s18', 's36', 'm36'), 'sail', {}),
        ('CAFormer', ('s18', 's36', 'm36'), 'sail', {}),
        (
            'UniFormer',
            ('small', 'base'),
            'sensex',
            dict(attention='hybrid', window_size=14),
        ),
    )
    for arch in archs
}
