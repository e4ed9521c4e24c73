"""Recomputing the maps of modules in the backward pass instead of keeping them."""

import threading

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from mmmeta.ops.guards import in_transform


def run_modules(x: Tensor, *modules: nn.Module) -> Tensor:
    """Return the result of applying the modules to x in sequence."""
    for module in modules:
        x = module(x)
    return x


def recompute(x: Tensor, *modules: nn.Module) -> Tensor:
    """Return `run_modules(x, *modules)`, keeping only x for the backward pass.

    The backward pass runs the modules again in the state of this call: with the same
    parameters, whether the modules' own or passed by `torch.func.functional_call`, with
    copies of the buffers, so that batch norms update their statistics only once, and in
    the same mode. Within `torch.func`'s transforms nothing is recomputed.

    Args:
        x: (B, C, H, W).
        modules: As for `run_modules`.

    Raises:
        RuntimeError: In the backward pass, if a parameter was since changed in place.
    """
    if not torch.is_grad_enabled():
        return run_modules(x, *modules)
    if torch.compiler.is_compiling():
        return checkpoint(run_modules, x, *modules, use_reentrant=False)
    if in_transform() or not all(isinstance(m, nn.Module) for m in modules):
        return run_modules(x, *modules)
    again = _Again(nn.Sequential(*modules))
    return checkpoint(again, x, use_reentrant=False)


_SWAPPING = threading.RLock()  # functional_call swaps the modules' tensors


class _Again:
    """Runs modules normally at first, and then again in the state of the first run."""

    def __init__(self, chain: nn.Sequential) -> None:
        self.chain = chain
        self.first = True
        # A shared tensor has several names and is swapped under each. FSDP restores the
        # parameters of the modules it wraps by itself, at each run.
        own = (
            () if _is_sharded(chain) else chain.named_parameters(remove_duplicate=False)
        )
        self.parameters = dict(own)
        self.versions = {name: p._version for name, p in self.parameters.items()}
        buffers = chain.named_buffers(remove_duplicate=False)
        self.buffers = {name: buffer.clone() for name, buffer in buffers}
        self.modes = [(module, module.training) for module in chain.modules()]

    def __call__(self, x: Tensor) -> Tensor:
        if self.first:
            self.first = False
            return self.chain(x)
        for name, p in self.parameters.items():
            if p._version != self.versions[name]:
                raise RuntimeError(
                    f'the parameter {name} of {[type(m).__name__ for m in self.chain]} '
                    'was changed in place between the forward and the backward pass, '
                    'which recomputes the layers with it: call backward() before the '
                    'optimizer step, or disable recompute_mlp and with_cp'
                )
        modes_now = [(module, module.training) for module, _ in self.modes]
        _set_modes(self.modes)
        try:
            return self._run(x)
        finally:
            _set_modes(modes_now)

    def _run(self, x: Tensor) -> Tensor:
        own = dict(self.chain.named_parameters(remove_duplicate=False))
        swapped = {
            name: p for name, p in self.parameters.items() if own.get(name) is not p
        }
        tensors = {**swapped, **self.buffers}
        if not tensors:
            return self.chain(x)
        with _SWAPPING:
            return functional_call(self.chain, tensors, (x,), tie_weights=False)


def _is_sharded(chain: nn.Module) -> bool:
    names = {kind.__name__ for m in chain.modules() for kind in type(m).__mro__}
    return not names.isdisjoint({'FSDPModule', 'FullyShardedDataParallel'})


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
