"""Time, page faults and memory of a call."""

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.models.layers import Downsample
from mmmeta.models.metaformer import MetaFormerBlock

STATUS = Path('/proc/self/status')


def timed(step: Callable[[], Any], device: str = 'cpu') -> tuple[float, int]:
    """Return the milliseconds of a call and its minor page faults.

    On a GPU the time is measured between two CUDA events.
    """
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        ms = start.elapsed_time(end)
    else:
        begin = time.perf_counter()
        step()
        ms = (time.perf_counter() - begin) * 1e3
    return ms, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def saved_bytes(model: nn.Module, step: Callable[[], Any]) -> int:
    """Return the bytes that autograd keeps for the backward pass of `step`.

    Each storage counts once; the model's parameters and buffers do not.

    Args:
        model: The model called.
        step: Its forward pass, which returns its outputs.
    """
    own = {t.untyped_storage().data_ptr() for t in model.parameters()}
    own |= {t.untyped_storage().data_ptr() for t in model.buffers()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = step()  # keeping the outputs keeps all saved tensors
    del outputs
    return sum(saved.values())


def peak_bytes(step: Callable[[], Any], device: str = 'cpu') -> int | None:
    """Return the peak memory of a call beyond the memory in use before it.

    On a CPU this is resident memory, which is meaningful only if the allocator returns
    freed memory: in a process with MALLOC_MMAP_THRESHOLD_ set.

    Returns:
        Bytes, or None if the system does not report it.
    """
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # reset the peak
        before = _resident('VmRSS')
        step()
        return _resident('VmHWM') - before
    return None


def _resident(field: str) -> int:
    """Return bytes of this process: 'VmRSS' now, 'VmHWM' at the peak."""
    line = next(s for s in STATUS.read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) * 1024


def copy_bandwidth(size: int = 2**30, repeats: int = 20) -> float:
    """Return the bytes per second that a GPU reads and writes when copying `size`."""
    source = torch.empty(size, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), 'cuda')[0] for _ in range(repeats))
    return 2 * size / (best * 1e-3)


def fewest_bytes(
    backbone: nn.Module, batch: int, size: tuple[int, int], itemsize: int
) -> int:
    """Return the bytes that a forward pass must read and write with ideal fusion.

    Weights are read once. A downsampling reads its input and writes its output. Each
    of a block's two branches reads the map and writes it: a norm over the map needs
    all of it first, and hidden channels can stay on the chip.

    Args:
        backbone: A `MetaFormer` on the meta device, where nothing is computed.
        batch: Number of images.
        size: Their height and width in pixels.
        itemsize: Bytes per element.
    """
    values = sum(p.numel() for p in backbone.parameters())

    def count(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal values
        times = 2 if isinstance(module, MetaFormerBlock) else 1
        values += times * (args[0].numel() + output.numel())

    handles = [
        module.register_forward_hook(count)
        for module in backbone.modules()
        if isinstance(module, (Downsample, MetaFormerBlock))
    ]
    try:
        with torch.no_grad():
            backbone(torch.empty(batch, 3, *size, device='meta'))
    finally:
        for handle in handles:
            handle.remove()
    return values * itemsize
