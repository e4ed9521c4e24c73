"""When a step may be taken in a way that only plain, eager inference allows."""

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack


def runs_eagerly(*modules: nn.Module) -> bool:
    """Whether modules may be passed over: nobody traces, compiles, counts or hooks."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _len_torch_dispatch_stack()
        or any(
            'forward' in vars(module)
            or module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            for module in modules
        )
    )


def may_overwrite(x: Tensor, *modules: nn.Module) -> bool:
    """Whether a map that `modules` made and passed on may be overwritten.

    In inference nobody else holds it, unless a hook took it. On a CPU that pays: fresh
    memory costs page faults, and is not in the cache.
    """
    return (
        x.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and runs_eagerly(*modules)
    )
