"""The families: one class each, with rows from `mmmeta.archs.families`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmmeta.archs import checks
from mmmeta.archs import families as rows
from mmmeta.archs.arch import resolve_arch
from mmmeta.errors import InvalidValueError
from mmmeta.models.metaformer import MetaFormer
from mmmeta.registry import MODELS

ATTENTION_MODES = ('global', 'window', 'hybrid')
HYBRID_PERIOD = 4  # in 'hybrid' every fourth block attends to the whole map


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """PoolFormer (2111.11418; sail-sg/poolformer): average pooling mixes tokens.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = rows.POOLFORMER.name
    base = rows.POOLFORMER.base
    archs = rows.POOLFORMER.archs


@MODELS.register_module()
class IdentityFormer(MetaFormer):
    """IdentityFormer (2210.13452; sail-sg/metaformer): tokens are not mixed.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = rows.IDENTITYFORMER.name
    base = rows.IDENTITYFORMER.base
    archs = rows.IDENTITYFORMER.archs


@MODELS.register_module()
class RandFormer(MetaFormer):
    """RandFormer (2210.13452; sail-sg/metaformer): frozen random mixing in late stages.

    Takes any size; equal to the reference at 224x224, the only size that supports.
    See `RandomMixing` for the options at other sizes and their cost.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = rows.RANDFORMER.name
    base = rows.RANDFORMER.base
    archs = rows.RANDFORMER.archs


@MODELS.register_module()
class PoolFormerV2(MetaFormer):
    """PoolFormerV2 (2210.13452; sail-sg/metaformer): pooling in a newer block.

    Arguments as for `MetaFormer`; arch: 's12', 's24', 's36', 'm36', 'm48'.
    """

    family = rows.POOLFORMERV2.name
    base = rows.POOLFORMERV2.base
    archs = rows.POOLFORMERV2.archs


@MODELS.register_module()
class ConvFormer(MetaFormer):
    """ConvFormer (2210.13452; sail-sg/metaformer): separable convolutions.

    Arguments as for `MetaFormer`; arch: 's18', 's36', 'm36', 'b36'.
    """

    family = rows.CONVFORMER.name
    base = rows.CONVFORMER.base
    archs = rows.CONVFORMER.archs


@MODELS.register_module()
class CAFormer(MetaFormer):
    """CAFormer (2210.13452; sail-sg/metaformer): convolutions, then attention.

    Arguments as for `MetaFormer`; arch: 's18', 's36', 'm36', 'b36'.
    """

    family = rows.CAFORMER.name
    base = rows.CAFORMER.base
    archs = rows.CAFORMER.archs


@MODELS.register_module()
class UniFormer(MetaFormer):
    """UniFormer (2201.09450; Sense-X/UniFormer): convolutions, then attention.

    Args:
        arch: 'small', 'small_plus', 'small_plus_dim64', 'base', 'base_ls'; or a
            dict.
        attention: What stage 3 attends to: 'global', the whole map; 'window', windows
            of `window_size`; 'hybrid', windows except in every fourth block. The
            parameters are the same: weights trained in one mode work in another.
            Default: 'global'.
        window_size: Side of the windows in positions (16 pixels each). Default: 14.
        **kwargs: As for `MetaFormer`. `token_mixer` overrides `attention` and
            `window_size`.

    Raises:
        ValueError: As for `MetaFormer`; an unknown mode, a window size that is not
            positive, or an arch without attention in its third stage.
    """

    family = rows.UNIFORMER.name
    base = rows.UNIFORMER.base
    archs = rows.UNIFORMER.archs

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
    """Return the mixers of the four stages, with windows in the third if requested.

    Raises:
        ValueError: An unknown mode, a window size that is not positive, or no
            attention in the third stage.
    """
    if attention not in ATTENTION_MODES:
        raise InvalidValueError(
            f'unknown attention {attention!r}; choose from {ATTENTION_MODES}'
        )
    checks.integer('window_size', window_size, 1)
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
