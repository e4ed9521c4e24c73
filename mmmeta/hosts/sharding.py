"""Training with parameters spread over the processes: FSDP2 (`fully_shard`).

MMEngine's own strategy is FSDP1, which PyTorch deprecates. It is in the way in three
places, which `ShardedRunner` overrides: MMEngine wraps a model in a module of another
name, initializes and loads weights after the optimizer is built, and saves in the first
process alone.
"""

import os
import os.path as osp
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmeta.errors import UserError
from mmmeta.hosts.parallel import without_sync
from mmmeta.hosts.saving import remove
from mmmeta.models.metaformer import MetaFormer, MetaFormerBlock
from mmmeta.registry import RUNNERS
from mmmeta.weights.parts import (
    PARTS,
    RUN,
    SUFFIX,
    WEIGHT,
    can_write_parts,
    describe,
    take_out,
    write_parts,
)

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
OPTIONS = ('mixed_precision', 'reshard_after_forward', 'sharded_checkpoints')


def check_options(options: Mapping[str, Any]) -> None:
    """Check a config's `fsdp`.

    Raises:
        UserError: An unknown option or dtype.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UserError(
            f'fsdp has no option {unknown[0]!r}; expected {" or ".join(OPTIONS)}'
        )
    if options.get('sharded_checkpoints') and not can_write_parts():
        raise UserError(
            f'fsdp: PyTorch {torch.__version__} cannot write sharded_checkpoints as '
            '.safetensors; update it or leave this option out'
        )
    dtype = options.get('mixed_precision')
    if dtype is not None and dtype not in DTYPES:
        raise UserError(
            f'fsdp: mixed_precision={dtype!r}; expected {" or ".join(DTYPES)}, or None'
        )


def shard(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Spread a model's parameters over all processes, in place, block by block.

    Args:
        model: The whole model, equal in all processes.
        options: A config's `fsdp`. `mixed_precision`: dtype in which the backbone
            computes, 'bfloat16' or 'float16', except for batch norms; its maps,
            gradients and all other parts are float32. Default: None, as they are.
            `reshard_after_forward`: collect a block's parameters again for the backward
            pass instead of keeping them. Default: True. `sharded_checkpoints`: each
            process saves its own part (see `ShardedRunner`). Default: False.

    Raises:
        UserError: `mixed_precision` for a model without a backbone of mmmeta.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(get_device(), (get_world_size(),))
    again = options.get('reshard_after_forward', True)

    def spread(module: nn.Module, **policy: Any) -> None:
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=MixedPrecisionPolicy(**policy),
            reshard_after_forward=again,
        )

    half: dict[str, Any] = {}
    if dtype := DTYPES.get(options.get('mixed_precision') or ''):
        half = dict(param_dtype=dtype, reduce_dtype=torch.float32)
        for norm in _all(model, _BatchNorm):  # of their statistics, no parameters
            spread(norm, cast_forward_inputs=False)
    for block in _all(model, MetaFormerBlock):
        spread(block, **half)
    if dtype:
        if not (backbones := _all(model, MetaFormer)):
            raise UserError('fsdp: mixed_precision needs a backbone of mmmeta')
        for backbone in backbones:  # losses and boxes need more than 8 bits
            spread(backbone, output_dtype=torch.float32, **half)
    spread(model)


def _all(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@RUNNERS.register_module()
class ShardedRunner(Runner):
    """MMEngine's Runner for configs with `fsdp`, with several processes.

    Its checkpoints are ordinary ones: the first process collects the weights and the
    optimizer's state. With `fsdp.sharded_checkpoints` each process writes its own part,
    to a folder (`epoch_1.dcp`, see `mmmeta.weights.parts`). Both can be resumed with
    another number of processes, and without `fsdp`.

    Attributes:
        suffix: The end of the names of checkpoints.

    Raises:
        UserError: An unknown option, or an average of the weights (EMAHook), which
            needs whole parameters.
    """

    sharded = False
    cfg: Any
    model: Any
    optim_wrapper: Any

    @property
    def suffix(self) -> str:
        fsdp = self.cfg.get('fsdp') or {}
        return SUFFIX if fsdp.get('sharded_checkpoints') else '.pth'

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return without_sync(model.to(get_device()))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Initialize, load and spread the model; its new parameters are optimized."""
        if not self.sharded:
            if any(type(hook).__name__ == 'EMAHook' for hook in self.hooks):
                raise UserError('fsdp cannot be used with EMAHook; remove one of them')
            super()._init_model_weights()
            if self._resume:
                file = self._load_from or find_latest_checkpoint(self.work_dir)
                if file is not None:
                    self.load_checkpoint(file)
                    self._has_loaded = False  # the rest is resumed later
            elif self._load_from is not None:
                self.load_or_resume()
            shard(self.model, self.cfg.get('fsdp') or {})
            self.sharded = True
            for hook in self.hooks:
                if self.suffix == SUFFIX and isinstance(hook, CheckpointHook):
                    name = hook.filename_tmpl.removesuffix('.pth')
                    hook.filename_tmpl = name.removesuffix(SUFFIX) + SUFFIX
        return super().build_optim_wrapper(optim_wrapper)

    def _init_model_weights(self) -> None:
        """Nothing: it is done when the optimizer is built."""

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As MMEngine's; of a sharded model, without the weights, which it has."""
        if not self.sharded:
            return super().load_checkpoint(filename, *args, **kwargs)
        content = _load_checkpoint(filename, map_location='cpu')
        self.call_hook('after_load_checkpoint', checkpoint=content)
        self._has_loaded = True
        return content

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """As MMEngine's, but called in all processes."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_state_dict,
        )

        parted = self.suffix == SUFFIX
        options = StateDictOptions(full_state_dict=not parted, cpu_offload=True)
        weights, states = get_state_dict(
            self.model, self.optim_wrapper.optimizer, options=options
        )
        if not (parted or is_main_process()):
            return
        numbered = _by_number(states, self._names())
        if parted:
            if not kwargs.get('save_optimizer', True):
                numbered['state'] = {}
            out_dir, filename = osp.join(out_dir, filename), RUN
            parts = _write_parts(out_dir, weights, numbered['state'])
            kwargs['meta'] = dict(kwargs.get('meta') or {}, **{PARTS: parts})
        if not is_main_process():
            return
        content: Any = OrderedDict(weights)
        content._metadata = OrderedDict()  # MMEngine copies it
        with (
            _replaced(self.model, 'state_dict', lambda *args, **kwargs: content),
            _replaced(self.optim_wrapper, 'state_dict', lambda: numbered),
        ):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """As MMEngine's; the file may be of a run without `fsdp`."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_optimizer_state_dict,
        )

        loaded: list[Mapping[str, Any]] = []
        with _replaced(self.optim_wrapper, 'load_state_dict', loaded.append):
            super().resume(*args, **kwargs)
        for states in loaded:
            set_optimizer_state_dict(
                self.model,
                self.optim_wrapper.optimizer,
                _by_name(states, self._names()),
                options=StateDictOptions(full_state_dict=True),
            )

    def _names(self) -> list[str]:
        """Return the parameters' names in the order of the optimizer."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        groups = self.optim_wrapper.optimizer.param_groups
        return [names[id(p)] for group in groups for p in group['params']]


@contextmanager
def _replaced(thing: Any, method: str, other: Callable) -> Iterator[None]:
    """Replace a method of one object."""
    setattr(thing, method, other)
    try:
        yield
    finally:
        delattr(thing, method)


def _write_parts(
    folder: str, weights: dict[str, Any], states: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Write what is spread over the processes, and take it out of a checkpoint.

    Weights that are no numbers leave a NaN, by which BadStepHook refuses to save.

    Raises:
        UserError: The folder is not a local one.
    """
    if '://' in folder:
        raise UserError(f'fsdp.sharded_checkpoints needs a local folder, got {folder}')
    order = list(weights)
    tensors = take_out(weights, states)
    if is_main_process():
        remove(folder)
        os.makedirs(folder)
    barrier()
    write_parts(folder, tensors)
    parts: dict[str, Any] = {name: tensors.get(f'{WEIGHT}.{name}') for name in order}
    bad = [
        name
        for name, part in parts.items()
        if part is not None and not torch.isfinite(part.to_local()).all()
    ]
    for names in all_gather_object(bad):
        weights |= {name: torch.tensor(torch.nan) for name in names}
    return describe(folder, order)


def _by_number(states: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return an optimizer's state by parameters' numbers, as its own has it."""
    numbers = {name: i for i, name in enumerate(names)}
    groups = [
        dict(group, params=[numbers[name] for name in group['params']])
        for group in states['param_groups']
    ]
    state = {numbers[name]: value for name, value in states['state'].items()}
    return dict(state=state, param_groups=groups)


def _by_name(states: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return an optimizer's state by parameters' names."""
    groups = [
        dict(group, params=[names[i] for i in group['params']])
        for group in states['param_groups']
    ]
    state = {names[i]: value for i, value in states['state'].items()}
    return dict(state=state, param_groups=groups)
