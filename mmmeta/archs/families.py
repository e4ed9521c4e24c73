"""The rows of each family: its sizes and their settings.

Importing this needs neither PyTorch nor MMEngine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmmeta.archs.arch import Arch


@dataclass(frozen=True)
class Family:
    """The rows of one family.

    Attributes:
        name: The family's name, also the name of its class in `mmmeta.models`.
        base: Fields of `Arch` shared by all its rows.
        sizes: Additional or overriding fields of each row, by size.
        archs: The rows by size.
    """

    name: str
    base: Mapping
    sizes: Mapping[str, Mapping]
    archs: dict[str, Arch] = field(init=False)

    def __post_init__(self) -> None:
        rows = {size: Arch(**{**self.base, **row}) for size, row in self.sizes.items()}
        object.__setattr__(self, 'archs', rows)


# Depths and dimensions shared by PoolFormer and the baselines with the same size names
# (2111.11418, table 1; 2210.13452, table 1).
SIZES_12_TO_48 = {
    's12': dict(depths=(2, 2, 6, 2), dims=(64, 128, 320, 512)),
    's24': dict(depths=(4, 4, 12, 4), dims=(64, 128, 320, 512)),
    's36': dict(depths=(6, 6, 18, 6), dims=(64, 128, 320, 512)),
    'm36': dict(depths=(6, 6, 18, 6), dims=(96, 192, 384, 768)),
    'm48': dict(depths=(8, 8, 24, 8), dims=(96, 192, 384, 768)),
}
# Those of ConvFormer and CAFormer (2210.13452, table 2).
SIZES_18_TO_36 = {
    's18': dict(depths=(3, 3, 9, 3), dims=(64, 128, 320, 512)),
    's36': dict(depths=(3, 12, 18, 3), dims=(64, 128, 320, 512)),
    'm36': dict(depths=(3, 12, 18, 3), dims=(96, 192, 384, 576)),
    'b36': dict(depths=(3, 12, 18, 3), dims=(128, 256, 512, 768)),
}

# -- norms
CHANNEL_NORM = dict(type='LN', eps=1e-6, bias=False)
MAP_NORM = dict(type='GN', eps=1e-6, bias=False)
UNIFORMER_NORM = dict(type='LN', eps=1e-6)

# -- shared by all five baselines of 2210.13452
BASELINE = dict(
    act='StarReLU',
    mlp_bias=False,
    layer_scale=None,
    res_scale=(None, None, 1.0, 1.0),
    downsample=(
        dict(kernel_size=7, stride=4, padding=2, post_norm=CHANNEL_NORM),
        *[dict(kernel_size=3, stride=2, padding=1, pre_norm=CHANNEL_NORM)] * 3,
    ),
    final_norm=None,
    init='all',
)
MAP_BASELINE = dict(BASELINE, norm=MAP_NORM, out_norm=MAP_NORM)
CHANNEL_BASELINE = dict(
    BASELINE, norm=CHANNEL_NORM, out_norm=CHANNEL_NORM, mlp_head=True
)

IDENTITY = dict(type='Identity')
SEP_CONV = dict(type='SepConv')
ATTENTION = dict(type='Attention', head_dim=32)

# -- the families
POOLFORMER = Family(
    'PoolFormer',
    {},
    # Initial layer scale: 1e-5 up to 24 blocks, 1e-6 above.
    {
        name: dict(size, layer_scale=1e-5 if name in ('s12', 's24') else 1e-6)
        for name, size in SIZES_12_TO_48.items()
    },
)
IDENTITYFORMER = Family(
    'IdentityFormer', dict(MAP_BASELINE, token_mixer=IDENTITY), SIZES_12_TO_48
)
RANDFORMER = Family(
    'RandFormer',
    dict(
        MAP_BASELINE,
        token_mixer=(
            IDENTITY,
            IDENTITY,
            dict(type='RandomMixing', size=14),
            dict(type='RandomMixing', size=7),
        ),
    ),
    SIZES_12_TO_48,
)
POOLFORMERV2 = Family('PoolFormerV2', MAP_BASELINE, SIZES_12_TO_48)
CONVFORMER = Family(
    'ConvFormer', dict(CHANNEL_BASELINE, token_mixer=SEP_CONV), SIZES_18_TO_36
)
CAFORMER = Family(
    'CAFormer',
    dict(CHANNEL_BASELINE, token_mixer=(SEP_CONV, SEP_CONV, ATTENTION, ATTENTION)),
    SIZES_18_TO_36,
)

UNIFORMER_LOCAL = dict(
    type='SepConv', kernel_size=5, expansion=1, act='Identity', bias=True
)
UNIFORMER_BASE = dict(
    token_mixer=(
        UNIFORMER_LOCAL,
        UNIFORMER_LOCAL,
        *[dict(type='Attention', head_dim=64, bias=True)] * 2,
    ),
    norm=(*[dict(type='BN')] * 2, *[UNIFORMER_NORM] * 2),
    layer_scale=None,
    downsample=(
        dict(kernel_size=4, stride=4, post_norm=dict(type='LN', eps=1e-5)),
        *[dict(kernel_size=2, stride=2, post_norm=dict(type='LN', eps=1e-5))] * 3,
    ),
    pos_embed=True,
    out_norm=UNIFORMER_NORM,
    final_norm=dict(type='BN'),
    init='attention',
)
UNIFORMER_SMALL_PLUS = dict(
    depths=(3, 5, 9, 3),
    dims=(64, 128, 320, 512),
    downsample=(
        dict(type='ConvStem'),
        *[dict(kernel_size=3, stride=2, padding=1, post_norm=dict(type='BN'))] * 3,
    ),
)
UNIFORMER_BASE_SIZE = dict(depths=(5, 8, 20, 7), dims=(64, 128, 320, 512))
UNIFORMER = Family(
    'UniFormer',
    UNIFORMER_BASE,
    {
        'small': dict(depths=(3, 4, 8, 3), dims=(64, 128, 320, 512)),
        'small_plus': dict(
            UNIFORMER_SMALL_PLUS,
            token_mixer=(
                *[UNIFORMER_LOCAL] * 2,
                *[dict(type='Attention', head_dim=32, bias=True)] * 2,
            ),
        ),
        'small_plus_dim64': UNIFORMER_SMALL_PLUS,
        'base': UNIFORMER_BASE_SIZE,
        'base_ls': dict(UNIFORMER_BASE_SIZE, layer_scale=(None, None, 1e-6, 1e-6)),
    },
)

FAMILIES: tuple[Family, ...] = (
    POOLFORMER,
    IDENTITYFORMER,
    RANDFORMER,
    POOLFORMERV2,
    CONVFORMER,
    CAFORMER,
    UNIFORMER,
)
# Every member by family and size, such as 'caformer_s18'.
ARCHS: dict[str, Arch] = {
    f'{family.name.lower()}_{size}': arch
    for family in FAMILIES
    for size, arch in family.archs.items()
}
