"""The families: which sizes exist, and what each is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmmeta.errors import InvalidValueError
from mmmeta.models.arch import Arch, resolve_arch
from mmmeta.models.metaformer import MetaFormer
from mmmeta.registry import MODELS


def _rows(base: Mapping, sizes: Mapping[str, Mapping]) -> dict[str, Arch]:
    return {name: Arch(**{**base, **size}) for name, size in sizes.items()}


# Depths and dimensions shared by PoolFormer and the baselines named alike
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

# -- the baselines of 2210.13452: what all five share
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
ATTENTION_MODES = ('global', 'window', 'hybrid')
HYBRID_PERIOD = 4  # every fourth block of a hybrid attends to the whole map


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


@MODELS.register_module()
class IdentityFormer(MetaFormer):
    """IdentityFormer (2210.13452; sail-sg/metaformer): tokens are not mixed.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = 'IdentityFormer'
    base = dict(MAP_BASELINE, token_mixer=IDENTITY)
    archs = _rows(base, SIZES_12_TO_48)


@MODELS.register_module()
class RandFormer(MetaFormer):
    """RandFormer (2210.13452; sail-sg/metaformer): frozen random mixing, late.

    Takes any size; equal to the reference at 224x224, the one size that takes.
    See `RandomMixing` for the choice at other sizes and what it costs.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = 'RandFormer'
    base = dict(
        MAP_BASELINE,
        token_mixer=(
            IDENTITY,
            IDENTITY,
            dict(type='RandomMixing', size=14),
            dict(type='RandomMixing', size=7),
        ),
    )
    archs = _rows(base, SIZES_12_TO_48)


@MODELS.register_module()
class PoolFormerV2(MetaFormer):
    """PoolFormerV2 (2210.13452; sail-sg/metaformer): pooling in a newer block.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = 'PoolFormerV2'
    base = MAP_BASELINE
    archs = _rows(base, SIZES_12_TO_48)


@MODELS.register_module()
class ConvFormer(MetaFormer):
    """ConvFormer (2210.13452; sail-sg/metaformer): separable convolutions.

    Arguments as for `MetaFormer`; arch: 's18', 's36', 'm36', 'b36'.
    """

    family = 'ConvFormer'
    base = dict(CHANNEL_BASELINE, token_mixer=SEP_CONV)
    archs = _rows(base, SIZES_18_TO_36)


@MODELS.register_module()
class CAFormer(MetaFormer):
    """CAFormer (2210.13452; sail-sg/metaformer): convolutions, then attention.

    Arguments as for `MetaFormer`; arch: 's18', 's36', 'm36', 'b36'.
    """

    family = 'CAFormer'
    base = dict(
        CHANNEL_BASELINE, token_mixer=(SEP_CONV, SEP_CONV, ATTENTION, ATTENTION)
    )
    archs = _rows(base, SIZES_18_TO_36)


@MODELS.register_module()
class UniFormer(MetaFormer):
    """UniFormer (2201.09450; Sense-X/UniFormer): convolutions, then attention.

    Args:
        arch: 'small', 'small_plus', 'small_plus_dim64', 'base', 'base_ls'; or a
            dict.
        attention: What stage 3 attends to: 'global' the whole map, 'window' windows
            of `window_size`, 'hybrid' windows but for every fourth block. Changes
            no parameter: weights trained in one mode can be used in another.
            Default: 'global'.
        window_size: Side of the windows in positions (16 pixels each). Default: 14.
        **kwargs: As for `MetaFormer`. `token_mixer` replaces what the other two
            say.

    Raises:
        ValueError: As for `MetaFormer`; an unknown mode, a window that is not positive,
            an arch whose third stage has no attention to cut.
    """

    family = 'UniFormer'
    local = dict(type='SepConv', kernel_size=5, expansion=1, act='Identity', bias=True)
    base = dict(
        token_mixer=(
            local,
            local,
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
    small_plus = dict(
        depths=(3, 5, 9, 3),
        dims=(64, 128, 320, 512),
        downsample=(
            dict(type='ConvStem'),
            *[dict(kernel_size=3, stride=2, padding=1, post_norm=dict(type='BN'))] * 3,
        ),
    )
    base_size = dict(depths=(5, 8, 20, 7), dims=(64, 128, 320, 512))
    archs = _rows(
        base,
        {
            'small': dict(depths=(3, 4, 8, 3), dims=(64, 128, 320, 512)),
            'small_plus': dict(
                small_plus,
                token_mixer=(
                    *[local] * 2,
                    *[dict(type='Attention', head_dim=32, bias=True)] * 2,
                ),
            ),
            'small_plus_dim64': small_plus,
            'base': base_size,
            'base_ls': dict(base_size, layer_scale=(None, None, 1e-6, 1e-6)),
        },
    )

    def __init__(
        self,
        arch: str | Mapping,
        *,
        attention: str = 'global',
        window_size: int = 14,
        token_mixer: Mapping | Sequence[Mapping] | None = None,
        **kwargs: Any,
    ) -> None:
        if token_mixer is None:
            row = resolve_arch(arch, self.archs, self.base, self.family)
            token_mixer = _with_windows(row.token_mixer, attention, window_size)
        super().__init__(arch, token_mixer=token_mixer, **kwargs)


def _with_windows(mixers: tuple, attention: str, window_size: int) -> tuple:
    """Return the mixers of the four stages, the third's within windows as asked.

    Raises:
        ValueError: An unknown mode, a window that is not positive, or no attention in
            the third stage that could have windows.
    """
    if attention not in ATTENTION_MODES:
        raise InvalidValueError(
            f'unknown attention {attention!r}; choose from {ATTENTION_MODES}'
        )
    if window_size < 1:
        raise InvalidValueError(f'window_size must be positive, got {window_size}')
    if attention == 'global':
        return mixers
    whole = mixers[2]
    if not isinstance(whole, Mapping) or whole.get('type') != 'Attention':
        raise InvalidValueError(
            f"attention={attention!r} needs dict(type='Attention', ...) as the third "
            f"stage's token mixer, got {whole}; use attention='global'"
        )
    cut = dict(whole, window_size=window_size)
    stage = cut if attention == 'window' else [*[cut] * (HYBRID_PERIOD - 1), whole]
    return (*mixers[:2], stage, *mixers[3:])


FAMILIES: tuple[type[MetaFormer], ...] = (
    PoolFormer,
    IdentityFormer,
    RandFormer,
    PoolFormerV2,
    ConvFormer,
    CAFormer,
    UniFormer,
)

# `MetaFormer` itself knows every member by family and size.
MetaFormer.archs = {
    f'{family.family.lower()}_{size}': arch
    for family in FAMILIES
    for size, arch in family.archs.items()
}
