"""The families: which sizes exist, and what each is made of."""

from collections.abc import Mapping

from mmmeta.models.arch import Arch
from mmmeta.models.metaformer import MetaFormer
from mmmeta.registry import MODELS


def _rows(base: Mapping, sizes: Mapping[str, Mapping]) -> dict[str, Arch]:
    return {name: Arch(**{**base, **size}) for name, size in sizes.items()}


# Depths and dimensions shared by PoolFormer and the baselines named alike
# (2111.11418 table 1; 2210.13452 table 1).
SIZES_12_TO_48 = {
    's12': dict(depths=(2, 2, 6, 2), dims=(64, 128, 320, 512)),
    's24': dict(depths=(4, 4, 12, 4), dims=(64, 128, 320, 512)),
    's36': dict(depths=(6, 6, 18, 6), dims=(64, 128, 320, 512)),
    'm36': dict(depths=(6, 6, 18, 6), dims=(96, 192, 384, 768)),
    'm48': dict(depths=(8, 8, 24, 8), dims=(96, 192, 384, 768)),
}


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """PoolFormer (2111.11418; sail-sg/poolformer): average pooling mixes tokens.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = 'PoolFormer'
    # Layer scale starts at 1e-5 up to 24 blocks and at 1e-6 above.
    archs = _rows(
        {},
        {
            name: dict(size, layer_scale=1e-5 if name in ('s12', 's24') else 1e-6)
            for name, size in SIZES_12_TO_48.items()
        },
    )


FAMILIES: tuple[type[MetaFormer], ...] = (PoolFormer,)

# `MetaFormer` itself knows every member by family and size.
MetaFormer.archs = {
    f'{family.family.lower()}_{size}': arch
    for family in FAMILIES
    for size, arch in family.archs.items()
}
