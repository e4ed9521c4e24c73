"""The architecture settings: everything that differs between MetaFormers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mmmeta.archs import checks
from mmmeta.errors import InvalidTypeError, InvalidValueError

NUM_STAGES = 4

# The PoolFormer stem and the three reductions between its stages.
CONV_DOWNSAMPLES = (
    dict(kernel_size=7, stride=4, padding=2),
    *[dict(kernel_size=3, stride=2, padding=1)] * 3,
)


def per_stage(value: Any, name: str) -> tuple:
    """Return one value for each of the four stages.

    Args:
        value: One value for all stages, or a list or tuple of four.
        name: Its name in the error message.

    Raises:
        ValueError: A list does not have four items.
    """
    if not isinstance(value, (list, tuple)):
        return (value,) * NUM_STAGES
    if len(value) != NUM_STAGES:
        raise InvalidValueError(
            f'{name} needs one value or a list of {NUM_STAGES}, one per stage; '
            f'got {len(value)}: {value}'
        )
    return tuple(value)


@dataclass(frozen=True)
class Arch:
    """The settings of one MetaFormer: a row in its family's table.

    A field marked (stage) takes one value for all stages or a list of four. The
    defaults are PoolFormer's.

    Attributes:
        depths: Blocks in each stage, four integers.
        dims: Channels of each stage, four integers.
        token_mixer: (stage) Config of the token mixer, see `TOKEN_MIXERS`; if one
            stage has a list, its blocks cycle through it.
        norm: (stage) Config of the blocks' norms, see `build_norm`.
        act: (stage) Name of the MLP's activation.
        mlp_ratio: (stage) Ratio of the MLP's hidden channels to the stage's.
        mlp_bias: Whether the MLP's layers have biases.
        layer_scale: (stage) Initial value of the learned scale on each branch;
            None for no scale.
        res_scale: (stage) Initial value of the learned scale on each shortcut;
            None for no scale.
        downsample: (stage) Config for `build_downsample`; four, stem first.
        pos_embed: Whether each block begins with `x + depthwise_conv3x3(x)`.
        out_norm: Config of the norm of each dense output.
        final_norm: Config of the last map's norm in a classifier; None if the
            classifier normalizes the pooled vector instead.
        mlp_head: Whether the classifier has a hidden layer, four times as wide.
        init: Which convolutions are initialized from a normal distribution with
            standard deviation 0.02, truncated at +-2, and zero biases: 'mlp' (those
            of the MLPs), 'attention' (those of blocks with attention) or 'all'; the
            others keep PyTorch's initialization.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    token_mixer: Any = field(default_factory=lambda: dict(type='Pooling'))
    norm: Any = field(default_factory=lambda: dict(type='GN', eps=1e-5))
    act: Any = 'GELU'
    mlp_ratio: Any = 4
    mlp_bias: bool = True
    layer_scale: Any = 1e-5
    res_scale: Any = None
    downsample: Any = CONV_DOWNSAMPLES
    pos_embed: bool = False
    out_norm: Mapping = field(default_factory=lambda: dict(type='GN', eps=1e-5))
    final_norm: Mapping | None = field(
        default_factory=lambda: dict(type='GN', eps=1e-5)
    )
    mlp_head: bool = False
    init: str = 'mlp'

    def __post_init__(self) -> None:
        for name in ('depths', 'dims'):
            value = getattr(self, name)
            ok = isinstance(value, (list, tuple)) and len(value) == NUM_STAGES
            if not ok or not all(type(n) is int and n > 0 for n in value):
                raise InvalidValueError(
                    f'{name} must be {NUM_STAGES} positive integers, got {value!r}'
                )
        staged = 'token_mixer norm act mlp_ratio layer_scale res_scale downsample'
        for name in staged.split():
            object.__setattr__(self, name, per_stage(getattr(self, name), name))
        for name in ('layer_scale', 'res_scale'):
            for value in getattr(self, name):
                if value is not None:
                    checks.number(name, value)
        for name in ('mlp_bias', 'pos_embed', 'mlp_head'):
            checks.switch(name, getattr(self, name))
        if self.init not in ('mlp', 'attention', 'all'):
            raise InvalidValueError(
                f"init must be 'mlp', 'attention' or 'all', got {self.init!r}"
            )


def resolve_arch(
    arch: str | Mapping, table: Mapping[str, Arch], base: Mapping, family: str
) -> Arch:
    """Return the settings that `arch` names or describes.

    Args:
        arch: A name in `table`, or a dict with fields of `Arch`; omitted fields
            default to the family's.
        table: The family's settings by name.
        base: The fields that all members of the family share.
        family: Name of the family in errors.

    Raises:
        ValueError: An unknown name or field, or a missing or invalid value.
        TypeError: `arch` is neither a string nor a dict.
    """
    if isinstance(arch, str):
        if arch not in table:
            raise InvalidValueError(
                f'{family} has no arch {arch!r}; choose from {sorted(table)} or '
                'pass a dict with the fields of mmmeta.archs.arch.Arch'
            )
        return table[arch]
    if not isinstance(arch, Mapping):
        raise InvalidTypeError(
            f'arch must be a name or a dict, got {type(arch).__name__}'
        )
    known = {f.name for f in fields(Arch)}
    unknown = sorted(set(arch) - known, key=str)
    if unknown:
        raise InvalidValueError(
            f'unknown fields {unknown} in the arch of {family}; choose from '
            f'{sorted(known)}'
        )
    missing = sorted({'depths', 'dims'} - set(arch))
    if missing:
        raise InvalidValueError(f'the arch of {family} lacks {missing}: {dict(arch)}')
    return Arch(**{**base, **arch})


def override(arch: Arch, **changes: Any) -> Arch:
    """Return `arch` with the fields that are not None replaced.

    Raises:
        ValueError: A wrong value, as for `Arch`.
    """
    return replace(arch, **{k: v for k, v in changes.items() if v is not None})
