"""The guards: when functions may replace modules, and which modules.

A fast path computes the results of the modules it replaces only if these are as the
package built them and nothing observes them. So it is allowed

- in plain eager inference: without gradients, autocast, compilation, tracing, export,
  dispatch or function modes, `torch.func`'s transforms or forward-mode AD;
- for modules whose class is exactly one that the fast path lists, with that class's
  own methods, without hooks, and with plain, contiguous parameters in the input's
  dtype;
- for a plain, non-empty tensor on the CPU in channels_last memory.

Everything else falls back to the plain modules.
"""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GLOBAL_HOOKS = (
    *('_global_forward_hooks', '_global_forward_pre_hooks'),
    *('_global_backward_hooks', '_global_backward_pre_hooks'),
)
PLAIN = (Tensor, nn.Parameter)

Originals = dict[type[nn.Module], tuple]


def remember(types: Iterable[type[nn.Module]]) -> Originals:
    """Return the classes with their current methods, for `may_stand_in`."""
    return {kind: _methods(kind) for kind in types}


def may_stand_in(root: nn.Module, x: Tensor, known: Originals) -> bool:
    """Whether functions may replace `root` and the modules in it for the input `x`.

    Args:
        root: The module to replace.
        x: Its input, (B, C, H, W).
        known: The classes that the functions can replace, from `remember`.
    """
    return _in_plain_inference() and _is_plain_map(x) and are_untouched(root, known, x)


def _in_plain_inference() -> bool:
    """Whether this is plain eager inference, without gradients or tracing."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled('cpu')
        or _in_mode_or_transform()
        or _global_hooks()
    )


def _is_plain_map(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def in_transform() -> bool:
    """Whether `torch.func`'s transforms or forward-mode AD are active.

    Also true if this version of PyTorch cannot tell. Must not be called in compilation.
    """
    depths = _depths()
    return depths is None or any(depth() for depth in depths[2:])


def _in_mode_or_transform() -> bool:
    depths = _depths()
    return depths is None or any(depth() for depth in depths)


def are_untouched(root: nn.Module, known: Originals, like: Tensor) -> bool:
    """Whether `root` and all modules in it are unmodified, as described above.

    Args:
        root: The outermost module.
        known: The allowed classes, from `remember`.
        like: Has the required device, and the dtype of floating-point tensors.
    """
    return all(_is_untouched(module, known, like) for module in root.modules())


# Called for every module of a block in every forward pass, so written for speed.
def _is_untouched(module: nn.Module, known: Originals, like: Tensor) -> bool:
    kind, own = type(module), module.__dict__
    if kind not in known or known[kind] != _methods(kind) or is_hooked(module):
        return False
    if own.get('weight') is not None or own.get('bias') is not None:
        return False  # not a parameter
    for tensors in (own['_parameters'], own['_buffers']):
        for t in tensors.values():
            if t is not None and not _is_plain(t, like):
                return False
    return True


def has_hooks(root: nn.Module) -> bool:
    """Whether there are global hooks, or hooks or replaced methods in `root`."""
    return _global_hooks() or any(is_hooked(module) for module in root.modules())


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks or overrides class attributes (`m.forward = ...`)."""
    kind: type = type(module)
    own = module.__dict__
    return bool(
        own['_forward_hooks']
        or own['_forward_pre_hooks']
        or own['_backward_hooks']
        or own['_backward_pre_hooks']
        or not own.keys().isdisjoint(_class_names(kind))
    )


def _is_plain(t: Tensor, like: Tensor) -> bool:
    return (
        type(t) in PLAIN
        and t.layout is torch.strided
        and t.device == like.device
        and t.is_contiguous()
        and (t.dtype is like.dtype or not t.is_floating_point())
    )


def _methods(kind: type[nn.Module]) -> tuple:
    convolve = getattr(kind, '_conv_forward', None)
    above = getattr(kind.__base__, 'forward', None)
    return kind.forward, above, kind.__call__, kind._call_impl, convolve


@functools.cache
def _class_names(kind: type) -> frozenset[str]:
    return frozenset(dir(kind))


def _global_hooks() -> bool:
    return any(getattr(nn_module, name, True) for name in GLOBAL_HOOKS)


@functools.cache
def _depths() -> tuple[Callable[[], int], ...] | None:
    """Return functions that count active modes and transforms; None if one fails.

    PyTorch has no public functions for this, so these are tested once.
    """
    try:
        depths = (
            torch._C._len_torch_dispatch_stack,
            torch._C._len_torch_function_stack,
            lambda: torch._C._functorch.maybe_current_level() or 0,
            lambda: forward_ad._current_level + 1,
        )
        quiet = [depth() for depth in depths]
        inside = []

        def look(x: Tensor) -> Tensor:
            inside.append(depths[2]())  # transforms hide the surrounding modes
            return x

        with TorchDispatchMode(), TorchFunctionMode(), forward_ad.dual_level():
            busy = [depth() for depth in depths]
        torch.func.vmap(look)(torch.zeros(1))
        busy[2] = inside[0]
    except Exception:
        return None
    return depths if all(a > b for a, b in zip(busy, quiet, strict=True)) else None
