"""Strict loading: all weights of a checkpoint, or an error that names the mismatches.

Backbones derive from `Backbone` to be loaded this way.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import Tensor, nn

from mmmeta.errors import InvalidTypeError
from mmmeta.weights import scheme  # noqa: F401  (registers mmmeta:// with MMEngine)
from mmmeta.weights.compare import (
    Comparison,
    Sizes,
    compare_backbone,
    compare_rest,
    describe,
    hints_for,
    refuse,
)
from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.locate import is_remote, locate, shown
from mmmeta.weights.reading import check_entries, read_state_dict, unwrap
from mmmeta.weights.state import CLASSIFIER_PARTS, Parsed, parse

Checkpoint = str | bytes | os.PathLike | Mapping[str, Tensor]

_PRETRAINED = ('Pretrained', 'PretrainedInit', PretrainedInit)
_NOT_STRICT = 'mmmeta_not_strict'


class Backbone(BaseModule):
    """A module whose weights are loaded strictly and in any layout.

    This applies to its `init_cfg`, its own `load_state_dict`, and PyTorch's and
    MMEngine's loading of a model that contains it. `load_checkpoint` also recognizes a
    backbone by this class: other packages' backbones have the same attributes, and a
    compiled module exposes those of the module that it wraps.

    Attributes:
        arch: Its depths and dims. Subclasses define these three attributes.
        archs: All archs by name; errors name the one that a checkpoint belongs to.
        in_channels: Channels of its images; a 3-channel stem is adapted to them.
    """

    arch: Sizes
    archs: Mapping[str, Sizes]
    in_channels: int
    # MMEngine's code has no types.
    init_cfg: Mapping | Sequence[Mapping] | None
    is_init: bool

    def init_weights(self) -> None:
        """Initialize according to `init_cfg`; 'Pretrained' loads strictly.

        MMEngine's own 'Pretrained' reads any pickle if safe loading fails, supports one
        layout and only logs mismatches. This calls `load_backbone` instead, with the
        options `checkpoint`, `prefix` and `map_location`. MMEngine handles the other
        entries of a list first.

        Raises:
            CheckpointError: The checkpoint cannot be obtained or does not fit.
            TypeError: 'Pretrained' without a checkpoint, or with unknown options.
        """
        init_cfg = self.init_cfg
        pretrained = pretrained_in(init_cfg)
        if self.is_init or not pretrained:
            super().init_weights()
            return
        others = [cfg for cfg in _listed(init_cfg) if cfg not in pretrained]
        wanted = [_options_of(cfg) for cfg in pretrained]
        # Inside a model MMEngine records how each parameter was initialized. For a bare
        # backbone with nothing else to initialize, its printout is skipped.
        in_model = hasattr(self, '_params_init_info')
        if in_model or others:
            self.init_cfg = others
            try:
                super().init_weights()
            finally:
                self.init_cfg = init_cfg
        self.is_init = False  # if loading fails, it can be retried
        for options in wanted:
            report = load_backbone(self, **options)
            print_log(f'{type(self).__name__}: {report}', logger='current')
            if in_model:
                update_init_info(self, f'PretrainedInit: load from {report.source}')
        self.is_init = True

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights in any layout that `mmmeta.weights` knows.

        As in PyTorch, but mismatches also raise an error if a model that contains the
        backbone is loaded with `strict=False`, as MMEngine does.

        Args:
            state_dict: The backbone's weights; not modified.
            strict: Raise an error for mismatches. Default: True.
            assign: As in PyTorch. Default: False.

        Returns:
            PyTorch's report of missing and unexpected keys, in mmmeta's names.

        Raises:
            CheckpointError: As for `load_backbone`; only if `strict`.
            RuntimeError: PyTorch's, for mismatches of keys in mmmeta's own names.
        """
        if not strict and isinstance(state_dict, Mapping):
            state_dict = _marked_not_strict(state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
    ) -> None:
        # Both PyTorch and MMEngine call this for any model that they load.
        strict = _NOT_STRICT not in local_metadata
        if not local_metadata.get('assign_to_params_buffers', False):
            refuse_meta(self.state_dict(), 'the state_dict')
        _translate_in_place(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _listed(init_cfg: Any) -> list[Mapping[str, Any]]:
    return [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())


def _options_of(pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for `load_backbone` in an entry of `init_cfg`."""
    options = {key: value for key, value in pretrained.items() if key != 'type'}
    unknown = sorted(options.keys() - {'checkpoint', 'prefix', 'map_location'})
    if unknown:
        raise InvalidTypeError(
            f'Pretrained in init_cfg takes no argument {unknown[0]!r}; choose from '
            'checkpoint, prefix, map_location'
        )
    if not isinstance(options.get('checkpoint'), str | os.PathLike | Mapping):
        raise InvalidTypeError(
            'Pretrained in init_cfg needs checkpoint=..., a path, a URL or '
            f'mmmeta://NAME; got {options.get("checkpoint")!r}'
        )
    return options


def pretrained_in(init_cfg: Any) -> list[Mapping[str, Any]]:
    """Return the entries of an `init_cfg` that name a checkpoint."""
    return [cfg for cfg in _listed(init_cfg) if cfg.get('type') in _PRETRAINED]


def be_lenient(metadata: Any, name: str) -> None:
    """Let MMEngine load a model even if the named backbone does not fit.

    Args:
        metadata: `_metadata` of the loaded state_dict; changed in place.
        name: The backbone's name in the model.
    """
    if metadata is not None:
        metadata[name] = {**metadata.get(name, {}), _NOT_STRICT: True}


def _marked_not_strict(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return a copy that records `strict=False` in its metadata.

    PyTorch does not pass `strict` to modules, but does pass `assign` in the metadata.
    """
    marked = OrderedDict(state_dict)
    metadata = dict(getattr(state_dict, '_metadata', None) or {})
    metadata[''] = {**metadata.get('', {}), _NOT_STRICT: True}
    marked._metadata = metadata  # type: ignore[attr-defined]  # PyTorch's place for it
    return marked


@dataclass(frozen=True)
class LoadReport:
    """The result of loading.

    Attributes:
        source: Description of the checkpoint, with its file and layout.
        loaded: Number of tensors copied.
        kept: Names that the checkpoint lacks, as expected; they keep their values.
        left: Names in the checkpoint that are not used, as expected.
    """

    source: str
    loaded: int
    kept: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        text = f'loaded {self.loaded} tensors from {self.source}'
        for names, what in (
            (self.kept, 'missing, as expected'),
            (self.left, 'unused, as expected'),
        ):
            if names:
                text += f'; {what}: {first_few(_roots(names), 8)}'
        return text


def _roots(names: tuple[str, ...]) -> list[str]:
    tops = [name.removeprefix('backbone.').split('.') for name in names]
    return list(
        dict.fromkeys(
            '.'.join(top[:2]) if top[0] == 'stages' else top[0] for top in tops
        )
    )


def load_backbone(
    module: Backbone,
    checkpoint: Checkpoint,
    *,
    prefix: str | None = None,
    map_location: Any = 'cpu',
) -> LoadReport:
    """Load a checkpoint into a backbone, strictly.

    Allowed to be unused: a classifier's head and final norm, norms of outputs that the
    model does not return, stages it does not have, and the other parts of a detector or
    segmentor. Allowed to be missing: the norms of dense outputs, which keep their
    values (one in a new model), and batch norms' counters. Any other mismatch raises an
    error before anything is changed.

    Args:
        module: The backbone.
        checkpoint: A path, a URL, mmmeta://NAME or a state_dict, in any layout of
            `mmmeta.weights.layouts`. float16, bfloat16, float32 and float64 weights
            are converted to the parameter's dtype.
        prefix: Prefix of the backbone's keys in the checkpoint. Default: detected
            (none or `backbone.`).
        map_location: As for `torch.load`. Default: 'cpu'.

    Raises:
        CheckpointError: It cannot be obtained or read, has an unknown layout, or does
            not fit; the message names the keys, and the shapes found and expected.
    """
    parsed, where = _read(checkpoint, prefix, map_location)
    target = module.state_dict()
    result = compare_backbone(target, parsed.backbone, _in_channels(module))
    refuse(
        result,
        where,
        describe(module),
        parsed.names,
        hints_for(module, parsed.backbone, result),
    )
    return _copy(target, result, where, extra_left=tuple(parsed.outer))


def load_classifier(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    new_head: bool = False,
    map_location: Any = 'cpu',
) -> LoadReport:
    """Load a checkpoint into an image classifier, strictly.

    Args:
        model: Has a MetaFormer as `backbone`, a `neck`, and a `head` with `fc`.
        checkpoint: As for `load_backbone`.
        new_head: Keep the model's last layer if the checkpoint has a different number
            of classes; if it has no classifier, keep the neck and final norm too.
            Default: False.
        map_location: As for `load_backbone`. Default: 'cpu'.

    Raises:
        CheckpointError: As for `load_backbone`, and for a different number of classes.
        TypeError: The model has no MetaFormer, or more than one.
    """
    _, module = find_backbone(model)
    parsed, where = _read(checkpoint, None, map_location)
    full = model.state_dict()
    inside, rest = _split_model(full, 'backbone.')
    rest = {k: v for k, v in rest.items() if k.startswith(CLASSIFIER_PARTS)}
    has_head = 'head.fc.weight' in parsed.outer
    if not has_head and not new_head:
        raise CheckpointError(
            f'{where} contains no classifier (no head.fc), like checkpoints for '
            'detection and segmentation. Pass num_classes=... to create_model for a '
            'new head, or load only its backbone'
        )
    outer = {k: v for k, v in parsed.outer.items() if k.startswith(CLASSIFIER_PARTS)}
    if has_head and len(outer['head.fc.weight']) != len(rest['head.fc.weight']):
        found, wanted = len(outer['head.fc.weight']), len(rest['head.fc.weight'])
        if not new_head:
            raise CheckpointError(
                f'{where} has {found} classes, the model {wanted}. Pass num_classes='
                f'{found} to keep its head, or num_classes={wanted} for a new head'
            )
        rest = {k: v for k, v in rest.items() if not k.startswith('head.fc.')}
        outer = {k: v for k, v in outer.items() if not k.startswith('head.fc.')}
    backbone = compare_backbone(
        inside, parsed.backbone, _in_channels(module), new_norm=not has_head
    )
    hints = hints_for(module, parsed.backbone, backbone)
    backbone = _prefixed(backbone, 'backbone.')
    head = compare_rest(rest, outer) if has_head else Comparison(kept=list(rest))
    names = {**parsed.names, **{f'backbone.{k}': v for k, v in parsed.names.items()}}
    refuse(backbone + head, where, type(model).__name__, names, hints)
    return _copy(full, backbone + head, where)


def load_checkpoint(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    prefix: str | None = None,
    map_location: Any = 'cpu',
) -> LoadReport:
    """Load a checkpoint strictly into a backbone or a model with one.

    Args:
        model: A MetaFormer backbone, an image classifier, or a detector or
            segmentor with a MetaFormer. A detector's checkpoint must contain all of
            its weights; to load only its backbone, pass `model.backbone`.
        checkpoint: As for `load_backbone`.
        prefix: As for `load_backbone`; only for a backbone. Default: None.
        map_location: As for `load_backbone`. Default: 'cpu'.

    Raises:
        CheckpointError: As for `load_backbone`.
        TypeError: The model has no MetaFormer, or more than one.
    """
    path, module = find_backbone(model)
    if module is model:
        return load_backbone(
            module, checkpoint, prefix=prefix, map_location=map_location
        )
    if prefix:
        raise TypeError('prefix is only for loading a backbone; pass that as the model')
    if path == 'backbone.' and 'head.fc.weight' in model.state_dict():
        return load_classifier(model, checkpoint, map_location=map_location)
    parsed, where = _read(checkpoint, None, map_location)
    full = model.state_dict()
    inside, rest = _split_model(full, path)
    backbone = compare_backbone(inside, parsed.backbone, _in_channels(module))
    hints = hints_for(module, parsed.backbone, backbone)
    result = _prefixed(backbone, path) + compare_rest(rest, parsed.outer)
    refuse(result, where, type(model).__name__, parsed.names, hints)
    return _copy(full, result, where)


def find_backbone(model: nn.Module) -> tuple[str, Backbone]:
    """Return the one MetaFormer in `model` and the prefix of its keys.

    Raises:
        TypeError: There is none, or more than one.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, Backbone)]
    if len(found) != 1:
        raise TypeError(
            f'expected a model with one mmmeta backbone, but {type(model).__name__} '
            f'has {len(found)}; pass the backbone itself'
        )
    name, module = found[0]
    return (f'{name}.' if name else ''), module


def _translate_in_place(
    module: Backbone, state_dict: dict[str, Any], prefix: str, strict: bool
) -> None:
    """Rename a backbone's keys in `state_dict` to mmmeta's names before loading.

    This lets detectors with other implementations of the backbone load unconverted.

    Args:
        module: The backbone.
        state_dict: The weights of the model or backbone; changed in place. A
            state_dict in mmmeta's own names is not changed.
        prefix: The backbone's prefix in it.
        strict: Raise an error for mismatches. MMEngine always sets this, and then only
            logs mismatches.

    Raises:
        CheckpointError: As for `load_backbone`; only if `strict`.
    """
    local = {
        k[len(prefix) :] if isinstance(k, str) else k: v
        for k, v in state_dict.items()
        if not isinstance(k, str) or k.startswith(prefix)
    }
    target = module.state_dict()
    if _same(local, target):
        return
    where = f'the state_dict under {prefix!r}' if prefix else 'the state_dict'
    try:
        check_entries(local, where)
        parsed = parse(local)
    except CheckpointError as error:
        if not strict:
            return
        advice = (
            ''
            if local
            else (
                '. If the checkpoint is a bare backbone or classifier, pass it to the '
                "backbone: init_cfg=dict(type='Pretrained', checkpoint=...)"
            )
        )
        raise CheckpointError(f'{where}: {error}{advice}') from None
    result = compare_backbone(target, parsed.backbone, _in_channels(module))
    if strict:
        hints = hints_for(module, parsed.backbone, result)
        refuse(result, where, describe(module), parsed.names, hints)
    if parsed.own:
        return
    for key in local:
        del state_dict[prefix + key]
    new = {key: target[key] for key in result.kept} | parsed.backbone | result.ready
    for key in result.left:
        del new[key]
    state_dict.update({prefix + key: value for key, value in new.items()})


def _same(local: Mapping[str, Any], target: Mapping[str, Tensor]) -> bool:
    return local.keys() == target.keys() and all(
        getattr(local[key], 'shape', None) == getattr(target[key], 'shape', None)
        for key in target
    )


def _read(
    checkpoint: Checkpoint, prefix: str | None, map_location: Any
) -> tuple[Parsed, str]:
    """Return a parsed checkpoint and its description."""
    if isinstance(checkpoint, Mapping):
        name = 'the state_dict'
        state = unwrap(checkpoint, name)
    else:
        name = shown(checkpoint)
        path = locate(checkpoint)
        state = read_state_dict(path, map_location=map_location)
        name = f'{name} ({path})' if is_remote(name) else name
    try:
        parsed = parse(state, prefix)
    except CheckpointError as error:
        raise CheckpointError(f'{name}: {error}') from None
    return parsed, f'{name} (layout {parsed.layout.name!r})'


def _split_model(
    state: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return inside, {k: v for k, v in state.items() if not k.startswith(prefix)}


def _prefixed(result: Comparison, prefix: str) -> Comparison:
    return Comparison(
        {prefix + key: value for key, value in result.ready.items()},
        [prefix + key for key in result.missing],
        [prefix + key for key in result.unexpected],
        [prefix + text for text in result.wrong],
        [prefix + key for key in result.kept],
        [prefix + key for key in result.left],
    )


@torch.no_grad()
def _copy(
    target: Mapping[str, Tensor],
    result: Comparison,
    where: str,
    extra_left: tuple[str, ...] = (),
) -> LoadReport:
    refuse_meta(target, where)
    for key, value in result.ready.items():
        target[key].copy_(value.as_subclass(Tensor))
    return LoadReport(
        where, len(result.ready), tuple(result.kept), (*result.left, *extra_left)
    )


def refuse_meta(target: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError if a model is on the meta device."""
    names = [key for key, value in target.items() if getattr(value, 'is_meta', False)]
    if names:
        raise CheckpointError(
            f'{where} cannot be loaded: the model is on the meta device '
            f'({first_few(names)}). Build it on another device, or call '
            "to_empty(device='cpu') first"
        )


def _in_channels(module: Backbone) -> int:
    return getattr(module, 'in_channels', 3)
