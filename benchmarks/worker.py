"""A process that builds alternatives of one case and calls them on request.

    python -m benchmarks.worker FOLDER

It answers each line of JSON on stdin, `[method of Session, arguments]`, with one on
stdout, `{"result": ...}` or `{"error": message}`. FOLDER contains the weights, images
and expected outputs, which the first process writes.
"""

import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import mmmeta
from benchmarks import measure, models
from benchmarks.cases import OPTIMIZED, Alternative, Case
from benchmarks.environment import environment
from mmmeta.hosts.allocator import tune_allocator
from mmmeta.weights.state import parse

WARM_UP_CALLS = 20
STEADY_CALLS = 3


@dataclass
class Row:
    """An alternative after building.

    Attributes:
        plain: The module that has the parameters.
        model: The module called, compiled or not.
        images: Its input.
        maps_grads: The gradient of each map, from which a training step's backward
            pass starts.
    """

    plain: nn.Module
    model: Callable[[Tensor], Any]
    images: Tensor
    maps_grads: list[Tensor] | None = None

    def forward(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.maps_grads is not None):
            return tree_leaves(self.model(self.images))

    def step(self) -> None:
        """Run the timed step, including freeing the outputs."""
        if self.maps_grads is None:
            self.forward()
            return
        for parameter in self.plain.parameters():
            parameter.grad = None
        torch.autograd.backward(self.forward(), self.maps_grads)


class Session:
    """The methods that the parent process can call.

    Args:
        folder: Folder of weights, images and expected outputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}

    def open(
        self, case: Mapping, device: str, threads: int | None, tuned: bool
    ) -> dict[str, Any]:
        """Set the case, the threads and the allocator before anything is built.

        Returns:
            The environment.
        """
        self.case, self.device = Case(**case), device
        self.dtype = getattr(torch, self.case.dtype)
        if threads is not None:
            torch.set_num_threads(threads)
        # Otherwise float32 convolutions on a GPU use TF32, with ten bits.
        torch.backends.cudnn.allow_tf32 = False
        return environment(device, tuned and tune_allocator())

    def prepare(self) -> None:
        """Write weights, images, and mmmeta's outputs for them in float32."""
        weights = models.draw_weights(self.case)
        torch.manual_seed(1)
        images = torch.randn(self.case.batch, 3, *self.case.size)
        torch.save(dict(weights=weights, images=images), self.folder / 'inputs.pt')
        own = f'{models.__name__}:mmmeta'
        for process in ('shared', 'mmmeta tool'):
            alternative = Alternative('', own, process=process)
            row = self._build(alternative, 'cpu', torch.float32)
            torch.save(self._observe(row), self._expected(alternative))

    def _expected(self, alternative: Alternative) -> Path:
        return self.folder / f'normalized-{alternative.as_users}.pt'

    def _build(self, alternative: Alternative, device: str, dtype: torch.dtype) -> Row:
        inputs = torch.load(self.folder / 'inputs.pt', mmap=True)
        build = resolve_name(alternative.build)
        plain = build(self.case, inputs['weights'], alternative.as_users)
        training = self.case.task == 'training'
        plain.train(training)
        form = (
            torch.channels_last
            if alternative.channels_last
            else torch.contiguous_format
        )
        images = inputs['images'].to(device, dtype, memory_format=form, copy=True)
        if alternative.mode in OPTIMIZED:
            model = _optimize(plain.to(device), alternative.mode, dtype)
            return Row(plain, model, images)
        plain.to(device, dtype, memory_format=form)
        grads = _maps_grads(plain, images) if training else None
        return Row(plain, _compile(plain, alternative.mode), images, grads)

    def _observe(self, row: Row) -> dict[str, Any]:
        """Return maps and, in training, gradients by mmmeta's names."""
        row.step()
        grads = {
            name.replace('stages_', 'stages.'): p.grad  # timm's features_only
            for name, p in row.plain.named_parameters()
            if p.grad is not None
        }
        return dict(
            maps=[m.detach().float().cpu() for m in row.forward()],
            grads={k: g.float().cpu() for k, g in parse(grads).backbone.items()}
            if grads
            else {},
        )

    def add(self, alternative: Mapping) -> float | None:
        """Build an alternative, compile it, and return the error of its outputs."""
        alternative = Alternative(**alternative)
        row = self._build(alternative, self.device, self.dtype)
        # An option of torch.compile is not enough: Dynamo also reads the setting.
        freezing = alternative.mode == 'frozen'
        with torch._inductor.config.patch(freezing=freezing):
            found = self._observe(row)
        self.rows[alternative.name] = row
        if alternative.floor:
            return None
        return difference(found, torch.load(self._expected(alternative)), self.dtype)

    def warm_up(self, name: str, seconds: float) -> None:
        """Call a row until three consecutive calls are not much faster than before."""
        deadline = time.monotonic() + seconds
        best, since = math.inf, 0
        for _ in range(WARM_UP_CALLS):
            ms, _ = self.call(name)
            since = 0 if ms < 0.97 * best else since + 1
            best = min(best, ms)
            if since == STEADY_CALLS or time.monotonic() > deadline:
                return

    def call(self, name: str) -> tuple[float, int]:
        """Return the milliseconds and page faults of the second of two calls.

        The first one refills caches and wakes threads. OpenMP's threads spin while
        waiting for work, and would slow down a row with its own threads, such as
        OpenVINO.
        """
        self.rows[name].step()
        return measure.timed(self.rows[name].step, self.device)

    def saved(self, name: str) -> int:
        """Return the bytes kept for the backward pass."""
        row = self.rows[name]
        return measure.saved_bytes(row.plain, row.forward)

    def peak(self, name: str) -> int | None:
        """Return the peak memory of one call in bytes."""
        return measure.peak_bytes(self.rows[name].step, self.device)

    def least_ms(self) -> float:
        """Return the time a GPU needs to move the fewest bytes of the backbone."""
        from mmengine.registry import MODELS

        with torch.device('meta'):
            backbone = MODELS.build(
                dict(type='mmmeta.MetaFormer', arch=self.case.arch, out_norm=False)
            ).eval()
        fewest = measure.fewest_bytes(
            backbone, self.case.batch, self.case.size, self.dtype.itemsize
        )
        return fewest / measure.copy_bandwidth() * 1e3


def _maps_grads(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return a reproducible random gradient for each map, with the map's strides."""
    with torch.no_grad():
        maps = tree_leaves(model(images))
    torch.manual_seed(2)
    return [torch.empty_like(m).copy_(torch.randn(m.shape)) for m in maps]


def _optimize(model: nn.Module, backend: str, dtype: torch.dtype) -> nn.Module:
    """Return the model optimized by mmmeta, folded in float32."""
    if isinstance(model, models.Tensors):
        return models.Tensors(_optimize(model.model, backend, dtype)).to(dtype)
    return mmmeta.optimize(model, backend=backend, dtype=dtype)


def _compile(model: nn.Module, mode: str) -> Callable[[Tensor], Any]:
    if mode == 'eager':
        return model
    # Set in either case: with equal options Dynamo would reuse the code compiled for
    # another row that differs only in its weights.
    return torch.compile(model, options=dict(freezing=mode == 'frozen'))


def difference(found: Mapping, expected: Mapping, dtype: torch.dtype) -> float:
    """Return the largest error of the outputs: of all maps, and of the gradients.

    A map's error is the largest difference (in bfloat16, where differences of single
    values are mostly rounding, the root mean square) over the map's standard deviation;
    that of the gradients is the norm of their difference over their norm.

    Raises:
        ValueError: Shapes or names differ, or a value is not finite.
    """
    maps, wanted = found['maps'], expected['maps']
    shapes, wanted_shapes = ([tuple(m.shape) for m in each] for each in (maps, wanted))
    if shapes != wanted_shapes:
        raise ValueError(f'its maps are {shapes}, expected {wanted_shapes}')
    grads, wanted_grads = found['grads'], expected['grads']
    if odd := grads.keys() ^ wanted_grads.keys():
        raise ValueError(f'{min(odd)} has a gradient in only one implementation')
    size = torch.max if dtype == torch.float32 else _root_mean_square
    worst = [size((m - w).abs()) / w.std() for m, w in zip(maps, wanted, strict=True)]
    if grads:
        off = torch.cat([(grads[k] - g).flatten() for k, g in wanted_grads.items()])
        norm = torch.cat([g.flatten() for g in wanted_grads.values()]).norm()
        worst.append(off.norm() / norm)
    worst = float(torch.stack(worst).max())  # NaN if any is
    if not math.isfinite(worst):
        raise ValueError('its outputs are not finite')
    return worst


def _root_mean_square(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def main() -> None:
    """Answer requests until stdin ends. Output of libraries goes to stderr."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter('ignore')
    session = Session(Path(sys.argv[1]))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer = dict(result=getattr(session, method)(**arguments))
        except Exception as error:  # one row failed; continue with the others
            traceback.print_exc()
            text = str(error).strip() or type(error).__name__
            answer = dict(error=text.splitlines()[0])
        print(json.dumps(answer), file=answers)


if __name__ == '__main__':
    main()
