"""Strict comparison of a checkpoint's weights with those of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.patterns import MAX_DIGITS

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
STEMS = ('stages.0.downsample.conv.weight', 'stages.0.downsample.conv1.weight')


class Sizes(Protocol):
    """The part of an arch that determines weights: blocks and channels per stage."""

    @property
    def depths(self) -> Sequence[int]: ...

    @property
    def dims(self) -> Sequence[int]: ...


class HasSizes(Protocol):
    """The part of a backbone that messages mention: its arch and all archs by name."""

    arch: Sizes
    archs: Mapping[str, Sizes]


@dataclass
class Comparison:
    """The result of comparing a checkpoint's state_dict with a model's.

    Attributes:
        ready: Tensors to copy, by the model's names.
        missing: Names in the model that the checkpoint lacks but must have.
        unexpected: Names in the checkpoint that the model lacks but must have.
        wrong: One sentence for each tensor with a wrong shape, dtype or value.
        kept: Missing but allowed: these keep their initial values.
        left: Unused but allowed.
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
    """Compare a checkpoint's backbone with a model's, both in mmmeta's names.

    The checkpoint may lack whole norms of dense outputs, which start at one, and
    batch norms' counters. It may contain norms that the model does not have, and
    stages after the model's last one.

    Args:
        target: The model's state_dict.
        source: The checkpoint's.
        in_channels: The model's input channels. If not 3, a 3-channel stem is
            adapted. Default: 3.
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
                (root[4:].isascii() and root[4:].isdigit())
                or (new_norm and root == 'norm')
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
            if key in STEMS and in_channels != 3 and not _not_plain(value):
                value = _adapt_stem(value, in_channels)
            _check_tensor(result, key, value, target[key])
    _settle_ties(target, result)
    return result


def compare_rest(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor]
) -> Comparison:
    """Compare the rest of a model with a checkpoint's: nothing may be missing."""
    result = Comparison(
        missing=[key for key in target if key not in source],
        unexpected=[key for key in source if key not in target],
    )
    for key, value in source.items():
        if key in target:
            _check_tensor(result, key, value, target[key])
    _settle_ties(target, result)
    return result


def _root(key: str) -> str:
    return key.split('.', 1)[0]


def _is_norm(root: str) -> bool:
    return root.startswith('norm')


def _adapt_stem(value: Tensor, channels: int) -> Tensor:
    if value.dim() == 4 and value.shape[1] == 3 and value.dtype in FLOATS:
        return adapt_input_channels(value, channels)
    return value


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a stem's weight for a different number of input channels.

    For one channel the three are summed, so that a gray image gives the same result
    as its RGB copy. Otherwise they are repeated and scaled by 3 / channels, which
    preserves the activations' magnitude (as in timm's `adapt_input_conv`).

    Args:
        weight: Floating point, (O, 3, kH, kW).
        channels: The new number of channels, at least 1.

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
    """Add `value` to the tensors to copy, or say what is wrong with it."""
    problem = _not_plain(value) or _misfit(value, wanted)
    if problem:
        result.wrong.append(f'{key} {problem}')
    else:
        result.ready[key] = value


def _not_plain(value: Any) -> str | None:
    """Return why a tensor's values cannot be copied, or None if they can."""
    kind = type(value)
    if not isinstance(value, Tensor):  # a module's _extra_state
        return 'is not a tensor; use load_state_dict'
    if isinstance(value, UninitializedBuffer | UninitializedParameter):
        return 'is not initialized: its shape is unknown'
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f'is a {kind.__name__}, expected a plain tensor'
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return 'is not a plain dense tensor'
    if value.is_meta:
        return 'has no values: it is on the meta device'
    return None


def _misfit(value: Tensor, wanted: Tensor) -> str | None:
    """Return why a plain tensor does not fit one of the model's, or None if it does."""
    if value.shape != wanted.shape:
        return f'has shape {tuple(value.shape)}, expected {tuple(wanted.shape)}'
    if value.dtype != wanted.dtype and not _converts(value.dtype, wanted.dtype):
        return f'is {value.dtype}, expected {wanted.dtype}'
    steps = zip(wanted.stride(), wanted.shape, strict=True)
    if any(step == 0 and length > 1 for step, length in steps):
        return 'cannot be written: in the model it is an expanded view'
    if not value.is_floating_point():
        same = value.to(wanted.dtype) == value
        return None if same.all() else f'has values that do not fit {wanted.dtype}'
    odd = int((~value.isfinite()).sum()) if value.dtype in FLOATS else 0
    if odd:
        return f'has {odd} of {value.numel()} values that are NaN or infinite'
    if value.dtype != wanted.dtype and not value.to(wanted.dtype).isfinite().all():
        return (
            f'has values up to {float(value.abs().max()):.3g}, which {wanted.dtype} '
            'cannot represent'
        )
    return None


def _settle_ties(target: Mapping[str, Tensor], result: Comparison) -> None:
    """Accept one name for a tensor that the model has under several names.

    safetensors files contain one of them; if a file has more, they must agree.
    """
    first: dict[tuple, str] = {}
    for key, value in result.ready.items():
        other = result.ready[first.setdefault(_memory(target[key]), key)]
        if other is not value and not torch.equal(other, value):
            name = first[_memory(target[key])]
            result.wrong.append(f'{key} differs from {name}, but the model ties them')
    result.missing = [k for k in result.missing if _memory(target[k]) not in first]


def _memory(tensor: Tensor) -> tuple:
    """Return a key that is equal for two names of the same tensor."""
    where = tensor.data_ptr() if tensor.numel() and not tensor.is_meta else id(tensor)
    return tensor.device, where, tensor.shape, tensor.stride()


def _converts(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether values of one dtype may be converted to another."""
    if given in FLOATS or wanted in FLOATS:
        return given in FLOATS and wanted in FLOATS
    return given in INTEGERS and wanted in INTEGERS


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
        where: Description of the checkpoint, with its file and layout.
        model: Description of the model.
        names: Our name -> the key in the file, where it differs.
        hints: What to do about the mismatch.
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
        f'{where} does not fit {model}; nothing was loaded. '
        f'{". ".join(parts)}.' + (f' {advice}' if advice else '')
    )


def describe(module: HasSizes) -> str:
    """Return a description of a backbone for messages."""
    return (
        f'{type(module).__name__} with depths {tuple(module.arch.depths)} and dims '
        f'{tuple(module.arch.dims)}'
    )


def hints_for(
    module: HasSizes, source: Mapping[str, Tensor], result: Comparison
) -> Iterator[str]:
    """Yield hints about what to do if a comparison is not clean.

    Args:
        module: The backbone.
        source: The checkpoint's backbone, in mmmeta's names.
        result: The comparison of the two.
    """
    found = _sizes(source)
    if found and found != (tuple(module.arch.depths), tuple(module.arch.dims)):
        names = [
            repr(name)
            for name, arch in module.archs.items()
            if (tuple(arch.depths), tuple(arch.dims)) == found
        ]
        which = f', like arch {" or ".join(names[:3])}' if names else ''
        yield f'The checkpoint has depths {found[0]} and dims {found[1]}{which}.'
    elif sides := _layer_scale_on_one_side(source, result):
        has, lacks = sides
        yield (
            f'The {has} has layer scale but the {lacks} has none: choose the matching '
            'arch (base_ls has it, base does not; layer_scale in the arch).'
        )
    if any(text.startswith(STEMS) for text in result.wrong):
        yield (
            'For images that do not have 3 channels, pass in_channels=... to the '
            'backbone: a 3-channel stem is then adapted.'
        )


def _layer_scale_on_one_side(
    source: Mapping[str, Tensor], result: Comparison
) -> tuple[str, str] | None:
    """Return which side has layer scale and which has none; None if they agree."""
    scales = {key for key in source if 'layer_scale' in key}
    if not scales and any('layer_scale' in key for key in result.missing):
        return 'model', 'checkpoint'
    if scales and scales <= set(result.unexpected):
        return 'checkpoint', 'model'
    return None


def _sizes(backbone: Mapping[str, Tensor]) -> tuple[tuple, tuple] | None:
    """Return a checkpoint's depths and dims, inferred from its keys and shapes."""
    blocks: dict[int, int] = {}
    dims: dict[int, int] = {}
    for key, value in backbone.items():
        parts = key.split('.')
        if parts[0] == 'stages' and parts[2] == 'blocks':
            if max(len(parts[1]), len(parts[3])) > MAX_DIGITS:
                return None
            stage = int(parts[1])
            blocks[stage] = max(blocks.get(stage, 0), int(parts[3]) + 1)
            if parts[4:] == ['norm1', 'weight'] and value.dim() == 1:
                dims[stage] = len(value)
    if sorted(blocks) != sorted(dims):
        return None
    return tuple(blocks[i] for i in sorted(blocks)), tuple(
        dims[i] for i in sorted(dims)
    )
