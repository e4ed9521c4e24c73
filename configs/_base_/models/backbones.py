"""The backbones of all detectors and segmentors, one a row.

A config takes its own out, and with `pop` the table away, which would else be left in
the config; what the recipe has to say, like the drop path, it adds:

    model = dict(backbone=dict(_base_.pop('backbones').caformer_s18, with_cp=True))

The weights are ImageNet-1k's at 224x224; UniFormer's without token labelling and
without layer scale. UniFormer attends in stage 3 to windows of 14 positions, but for
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
