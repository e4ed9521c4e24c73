"""Conversion of a state_dict from any known layout to mmmeta's names, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.layouts import LAYOUT_NAMES, LAYOUTS, MMMETA
from mmmeta.weights.patterns import Layout, Row, refuse_collisions

BACKBONE = 'backbone.'
WRAPPER_PREFIXES = ('module.', '_orig_mod.')  # DDP's, torch.compile's
CLASSIFIER_PARTS = ('neck.', 'head.')


@dataclass(frozen=True)
class Parsed:
    """A state_dict in mmmeta's names.

    Attributes:
        layout: Its original layout.
        contained: Whether the backbone was part of a whole model.
        backbone: The backbone's tensors.
        outer: The model's other tensors: `neck.*` and `head.fc.*` of a classifier,
            or those of a detector or segmentor.
        names: The original key of each tensor, by our name.
    """

    layout: Layout
    contained: bool
    backbone: dict[str, Tensor]
    outer: dict[str, Tensor]
    names: dict[str, str]

    @property
    def own(self) -> bool:
        """Whether the original keys were a bare backbone's in mmmeta's own names."""
        return self.layout is MMMETA and not self.contained


def recognize(keys: Iterable[str], contained: bool = False) -> Layout:
    """Return the layout that all `keys` of a backbone or classifier belong to.

    Args:
        keys: The keys, without the backbone's prefix in a whole model.
        contained: Whether they had that prefix; if two layouts fit, the one whose
            publisher uses it is preferred.

    Raises:
        CheckpointError: No layout fits; names the nearest and the unknown keys.
    """
    keys = list(keys)
    if not keys:
        raise CheckpointError('it has no weights of a backbone')
    misfits = {id(layout): layout.misfits(keys) for layout in LAYOUTS}
    fitting = [layout for layout in LAYOUTS if not misfits[id(layout)]]
    if fitting:
        return max(fitting, key=lambda layout: contained and bool(layout.prefix))
    nearest = min(LAYOUTS, key=lambda layout: len(misfits[id(layout)]))
    wrong = misfits[id(nearest)]
    fit = len(keys) - len(wrong)
    like = f'the nearest is {nearest.name!r}, where {fit} of its {len(keys)} keys fit'
    raise CheckpointError(
        'its keys belong to no layout that mmmeta knows'
        + (f'; {like} but not {first_few(wrong)}' if fit else f': {first_few(keys)}')
        + f'. Known are {", ".join(LAYOUT_NAMES)}; for a backbone inside another '
        "model pass the prefix of its keys, such as prefix='backbone.'"
    )


def parse(state: Mapping[str, Tensor], prefix: str | None = None) -> Parsed:
    """Rename the keys of a state_dict in any known layout to mmmeta's names.

    Args:
        state: Tensors by key: a backbone, a classifier, or a detector or segmentor
            with the prefix `backbone.` for the backbone; `module.` may precede all.
        prefix: The backbone's prefix, if different. Default: detected.

    Raises:
        CheckpointError: Unknown layout, colliding keys, no keys under `prefix`.
    """
    keys, outer_keys, contained = _split(state, prefix)
    layout = recognize(keys, contained)
    backbone: dict[str, Tensor] = {}
    outer: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, (own, row) in layout.to_own(keys).items():
        side = outer if own.startswith(CLASSIFIER_PARTS) else backbone
        side[own] = _as_own(state[keys[key]], row)
        names[own] = keys[key]
    refuse_collisions(
        {names[own]: own for own in outer}
        | {old: short for short, old in outer_keys.items()},
        layout.name,
    )
    outer |= {short: state[old] for short, old in outer_keys.items()}
    names |= {short: old for short, old in outer_keys.items() if short not in names}
    return Parsed(layout, contained, backbone, outer, names)


def _split(
    state: Mapping[str, Tensor], prefix: str | None
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Return the backbone's and the other keys by short name, and if contained."""
    keys = {key: key for key in state}
    if prefix:
        prefix = prefix if prefix.endswith('.') else f'{prefix}.'
        inside = _under(keys, prefix)
        if not inside:
            tops = sorted({key.split('.')[0] + '.' for key in keys})
            raise CheckpointError(
                f'it has no keys under prefix {prefix!r}; its keys begin with '
                f'{first_few(tops, 8)}'
            )
        return inside, {}, True
    for wrapper in WRAPPER_PREFIXES * 2:  # they may be nested in any order
        if keys and all(key.startswith(wrapper) for key in keys):
            keys = _under(keys, wrapper)
    inside = _under(keys, BACKBONE)
    if not inside:
        return keys, {}, False
    return inside, {k: v for k, v in keys.items() if not k.startswith(BACKBONE)}, True


def _under(keys: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k[len(prefix) :]: v for k, v in keys.items() if k.startswith(prefix)}


def _as_own(value: Tensor, row: Row) -> Tensor:
    """Return a pointwise weight as (O, I, 1, 1), anything else unchanged."""
    if row.ndim and value.dim() == 2 and value.layout is torch.strided:
        return value[:, :, None, None]
    return value


def _as_official(value: Tensor, row: Row) -> Tensor:
    """Return one of our pointwise weights with the rank that its row requires."""
    return value.flatten(1) if row.ndim == 2 and value.dim() == 4 else value


def to_layout(parsed: Parsed, name: str) -> dict[str, Tensor]:
    """Return a parsed state_dict in the layout called `name`.

    Layouts whose publisher keeps the backbone inside a model (`mmmeta`, `mmpretrain`)
    keep a detector's other keys unchanged.

    Raises:
        CheckpointError: An unknown name, or keys that the layout cannot represent.
    """
    layouts = [layout for layout in LAYOUTS if layout.name == name]
    if not layouts:
        raise CheckpointError(
            f'unknown layout {name!r}; choose from {", ".join(LAYOUT_NAMES)}'
        )
    errors = []
    for layout in layouts:
        try:
            return _to_one_layout(parsed, layout)
        except CheckpointError as error:
            errors.append(error)
    # The layout that fits best has the shortest message.
    raise min(errors, key=lambda error: len(str(error)))


def _to_one_layout(parsed: Parsed, layout: Layout) -> dict[str, Tensor]:
    backbone, outer = dict(parsed.backbone), dict(parsed.outer)
    if not layout.prefix:
        renames = layout.to_official([*backbone, *outer])
        merged = backbone | outer
        return {new: _as_official(merged[k], row) for k, (new, row) in renames.items()}
    result = {
        layout.prefix + new: _as_official(backbone[key], row)
        for key, (new, row) in layout.to_official(backbone).items()
    }
    return result | outer
