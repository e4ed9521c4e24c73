"""What a model needs beside what a checkpoint has: everything or an error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mmmeta.weights.errors import CheckpointError, first_few

STEMS = ('stages.0.downsample.conv.weight', 'stages.0.downsample.conv1.weight')


class Sizes(Protocol):
    """An arch, as far as weights depend on it: blocks and channels of each stage."""

    depths: Sequence[int]
    dims: Sequence[int]


class HasSizes(Protocol):
    """A backbone, as far as messages tell of it: its arch, and all archs by name."""

    arch: Sizes
    archs: Mapping[str, Sizes]


@dataclass
class Comparison:
    """The outcome of holding a state dict against a model's.

    Attributes:
        ready: What is to be copied, by the model's name.
        missing: The model's names that the checkpoint should have and has not.
        unexpected: The checkpoint's names that the model should have and has not.
        wrong: One sentence for each tensor of another shape, dtype or value.
        kept: Allowed missing: these stay as they were initialized.
        left: Allowed left over: these are not used.
    """

    ready: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def __add__(self, other: 'Comparison') -> 'Comparison':
        return Comparison(
            {**self.ready, **other.ready},
            *(
                getattr(self, name) + getattr(other, name)
                for name in ('missing', 'unexpected', 'wrong', 'kept', 'left')
            ),
        )


def compare_backbone(
    target: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    in_channels: int = 3,
    new_norm: bool = False,
) -> Comparison:
    """Hold a checkpoint's backbone against a model's, both in mmmeta's names.

    What may be missing: whole norms of dense outputs, which start at one; batch
    norms' counters. What may be left over: the norms that the model has not, and
    the stages behind its last one.

    Args:
        target: The model's state dict.
        source: The checkpoint's.
        in_channels: What the model was built for. If that is not 3, a stem for 3
            is adapted. Default: 3.
        new_norm: Whether the final norm may be missing too. Default: False.
    """
    result = Comparison()
    roots = {_root(key) for key in source}
    own_roots = {_root(key) for key in target}
    stages = {key.split('.')[1] for key in target if key.startswith('stages.')}
    for key in target:
        if key not in source:
            root = _root(key)
            whole_norm = root not in roots and (
                root[4:].isdigit() or (new_norm and root == 'norm')
            )
            counter = key.endswith('num_batches_tracked')
            allowed = counter or (_is_norm(root) and whole_norm)
            (result.kept if allowed else result.missing).append(key)
    for key in source:
        if key not in target:
            root = _root(key)
            allowed = (_is_norm(root) and root not in own_roots) or (
                root == 'stages' and key.split('.')[1] not in stages
            )
            (result.left if allowed else result.unexpected).append(key)
    for key, value in source.items():
        if key in target:
            if key in STEMS and in_channels != 3:
                value = _adapt_stem(value, in_channels)
            _check_tensor(result, key, value, target[key])
    return result


def compare_rest(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor]
) -> Comparison:
    """Hold everything else of a model against a checkpoint's: all must be there."""
    result = Comparison(
        missing=[key for key in target if key not in source],
        unexpected=[key for key in source if key not in target],
    )
    for key, value in source.items():
        if key in target:
            _check_tensor(result, key, value, target[key])
    return result


def _root(key: str) -> str:
    return key.split('.', 1)[0]


def _is_norm(root: str) -> bool:
    return root.startswith('norm')


def _adapt_stem(value: Tensor, channels: int) -> Tensor:
    if value.dim() == 4 and value.shape[1] == 3 and value.is_floating_point():
        return adapt_input_channels(value, channels)
    return value


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a stem's weight for another number of input channels.

    One channel gets the sum over the three, so that a gray image gives what its
    copy in three channels gave. Otherwise the three are repeated and scaled by
    3 / channels, which keeps the activations' size (as timm's
    `adapt_input_conv`).

    Args:
        weight: Floating point, (O, 3, kH, kW).
        channels: The number wanted, at least 1.

    Returns:
        A tensor of the same dtype, (O, channels, kH, kW).

    Raises:
        ValueError: The weight is not for three channels.
    """
    if weight.shape[1] != 3:
        raise ValueError(f'expected a weight for 3 channels, got {weight.shape[1]}')
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // 3)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (3 / channels)


def _check_tensor(result: Comparison, key: str, value: Tensor, wanted: Tensor) -> None:
    """Put `value` with what is ready, or a sentence with what is wrong."""
    if value.layout != torch.strided or value.is_quantized:
        result.wrong.append(f'{key} is not a plain dense tensor')
    elif value.shape != wanted.shape:
        result.wrong.append(
            f'{key} has shape {tuple(value.shape)}, wanted {tuple(wanted.shape)}'
        )
    elif value.is_floating_point() != wanted.is_floating_point() or value.is_complex():
        result.wrong.append(f'{key} is {value.dtype}, wanted {wanted.dtype}')
    elif value.is_floating_point() and not value.isfinite().all():
        count = int((~value.isfinite()).sum())
        result.wrong.append(
            f'{key} has {count} of {value.numel()} values that are NaN or infinite'
        )
    else:
        result.ready[key] = value


def refuse(
    result: Comparison,
    where: str,
    model: str,
    names: Mapping[str, str],
    hints: Iterator[str],
) -> None:
    """Raise CheckpointError unless the comparison is clean.

    Args:
        result: The comparison.
        where: What the checkpoint is called, its file and layout.
        model: What the model is called.
        names: Our name -> the key in the file, where it differs.
        hints: What to do, for the case.
    """
    if result.ok:
        return

    def listed(keys: list[str]) -> str:
        return first_few(
            [k if names.get(k, k) == k else f'{k} (there: {names[k]})' for k in keys]
        )

    parts = []
    if result.missing:
        parts.append(f'{len(result.missing)} missing: {listed(result.missing)}')
    if result.unexpected:
        parts.append(
            f'{len(result.unexpected)} unexpected: {listed(result.unexpected)}'
        )
    if result.wrong:
        parts.append('; '.join([first_few(result.wrong, 3)]))
    advice = ' '.join(hints)
    raise CheckpointError(
        f'{where} does not fit {model}, and nothing of it was loaded. '
        f'{". ".join(parts)}.' + (f' {advice}' if advice else '')
    )


def describe(module: HasSizes) -> str:
    """Return what messages call a backbone."""
    return (
        f'{type(module).__name__} with depths {tuple(module.arch.depths)} and dims '
        f'{tuple(module.arch.dims)}'
    )


def hints_for(
    module: HasSizes, source: Mapping[str, Tensor], result: Comparison
) -> Iterator[str]:
    """Say what to do about a comparison that is not clean.

    Args:
        module: The backbone.
        source: The checkpoint's, in mmmeta's names.
        result: The comparison of the two.
    """
    found = _sizes(source)
    if found and found != (tuple(module.arch.depths), tuple(module.arch.dims)):
        names = [
            repr(name)
            for name, arch in module.archs.items()
            if (tuple(arch.depths), tuple(arch.dims)) == found
        ]
        which = f', as arch {" or ".join(names[:3])} has' if names else ''
        yield f'The checkpoint is of depths {found[0]} and dims {found[1]}{which}.'
    elif any('layer_scale' in key for key in result.missing + result.unexpected):
        has, lacks = 'model', 'checkpoint'
        if any('layer_scale' in key for key in result.unexpected):
            has, lacks = lacks, has
        yield (
            f'The {has} has layer scale and the {lacks} has none: they are of '
            'different archs, as base_ls and base are (layer_scale in the arch).'
        )
    if any(text.startswith(STEMS) for text in result.wrong):
        yield (
            'For images of other than 3 channels give in_channels=... to the '
            'backbone: a stem for 3 is then adapted.'
        )


def _sizes(backbone: Mapping[str, Tensor]) -> tuple[tuple, tuple] | None:
    """Return depths and dims of a checkpoint, as its keys and shapes tell them."""
    blocks: dict[int, int] = {}
    dims: dict[int, int] = {}
    for key, value in backbone.items():
        parts = key.split('.')
        if parts[0] == 'stages' and parts[2] == 'blocks':
            stage = int(parts[1])
            blocks[stage] = max(blocks.get(stage, 0), int(parts[3]) + 1)
            if parts[4:] == ['norm1', 'weight'] and value.dim() == 1:
                dims[stage] = len(value)
    if sorted(blocks) != sorted(dims):
        return None
    return tuple(blocks[i] for i in sorted(blocks)), tuple(
        dims[i] for i in sorted(dims)
    )
