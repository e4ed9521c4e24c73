"""Modules whose maps are computed again in the backward pass instead of kept."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from mmmeta.ops.guards import is_transformed


def run_modules(x: Tensor, *modules: nn.Module) -> Tensor:
    """Return what the modules, one behind the other, make of x."""
    for module in modules:
        x = module(x)
    return x


def recompute(x: Tensor, *modules: nn.Module) -> Tensor:
    """Return `run_modules(x, *modules)`, keeping x for the backward pass alone.

    That pass runs the modules once more, with the parameters of this call, be they the
    modules' own or lent by `torch.func.functional_call`. Buffers are copied for it, so
    that a batch norm counts each batch once. Within `torch.func`'s transforms nothing
    is recomputed.

    Args:
        x: (B, C, H, W).
        modules: As for `run_modules`.

    Raises:
        RuntimeError: In the backward pass, if a parameter was changed in place since.
    """
    if not torch.is_grad_enabled():
        return run_modules(x, *modules)
    if torch.compiler.is_compiling():
        return checkpoint(run_modules, x, *modules, use_reentrant=False)
    if is_transformed():
        return run_modules(x, *modules)
    chain = nn.Sequential(*modules)
    parameters = dict(chain.named_parameters())
    versions = {name: p._version for name, p in parameters.items()}
    first = True

    def run(x: Tensor) -> Tensor:
        nonlocal first
        if first:
            first = False
            return run_modules(x, *modules)
        for name, p in parameters.items():
            if p._version != versions[name]:
                raise RuntimeError(
                    f'the parameter {name} of {[type(m).__name__ for m in modules]} '
                    'was changed in place between the forward and the backward pass, '
                    'which computes the layers again with it: call backward() before '
                    'the optimizer steps, or do without recompute_mlp and with_cp'
                )
        buffers = {name: b.clone() for name, b in chain.named_buffers()}
        return functional_call(chain, {**parameters, **buffers}, (x,))

    return checkpoint(run, x, use_reentrant=False)
