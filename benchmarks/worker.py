"""A process that builds alternatives of one case and calls them when told to.

    python -m benchmarks.worker FOLDER

It answers each line of JSON on stdin, `[method of Session, arguments]`, with one on
stdout, `{"result": ...}` or `{"error": message}`. FOLDER holds the weights, the images
and the outputs to compare with, which the first process writes.
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
    """An alternative, built.

    Attributes:
        plain: The module that has the parameters.
        model: The module called, compiled or not.
        images: Its input.
        maps_grads: What a training step's backward pass starts from: a gradient for
            each map.
    """

    plain: nn.Module
    model: Callable[[Tensor], Any]
    images: Tensor
    maps_grads: list[Tensor] | None = None

    def forward(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.maps_grads is not None):
            return tree_leaves(self.model(self.images))

    def step(self) -> None:
        """What is timed. Outputs are freed within it."""
        if self.maps_grads is None:
            self.forward()
            return
        for parameter in self.plain.parameters():
            parameter.grad = None
        torch.autograd.backward(self.forward(), self.maps_grads)


class Session:
    """What the parent process can ask for.

    Args:
        folder: Where weights, images and expected outputs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}

    def open(
        self, case: Mapping, device: str, threads: int | None, tuned: bool
    ) -> dict[str, Any]:
        """Take the case, and set threads and allocator before anything is built.

        Returns:
            The environment.
        """
        self.case, self.device = Case(**case), device
        self.dtype = getattr(torch, self.case.dtype)
        if threads is not None:
            torch.set_num_threads(threads)
        # Else a GPU's float32 convolutions have ten bits.
        torch.backends.cudnn.allow_tf32 = False
        return environment(device, tuned and tune_allocator())

    def prepare(self) -> None:
        """Write weights, images, and what mmmeta computes from them in float32."""
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
        """Return maps and, in training, gradients under mmmeta's names."""
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
        """Build an alternative, compile it, and return how far its outputs are off."""
        alternative = Alternative(**alternative)
        row = self._build(alternative, self.device, self.dtype)
        # An option of torch.compile is not enough: Dynamo looks at the setting too.
        freezing = alternative.mode == 'frozen'
        with torch._inductor.config.patch(freezing=freezing):
            found = self._observe(row)
        self.rows[alternative.name] = row
        if alternative.floor:
            return None
        return difference(found, torch.load(self._expected(alternative)), self.dtype)

    def warm_up(self, name: str, seconds: float) -> None:
        """Call a row until three calls in a row were not much faster than before."""
        deadline = time.monotonic() + seconds
        best, since = math.inf, 0
        for _ in range(WARM_UP_CALLS):
            ms, _ = self.call(name)
            since = 0 if ms < 0.97 * best else since + 1
            best = min(best, ms)
            if since == STEADY_CALLS or time.monotonic() > deadline:
                return

    def call(self, name: str) -> tuple[float, int]:
        """Return the milliseconds and page faults of one call, the second in a row.

        The first one brings back the caches and the threads. OpenMP's wait actively for
        more to do, and would take the processor from a row that has threads of its own,
        as OpenVINO does.
        """
        self.rows[name].step()
        return measure.timed(self.rows[name].step, self.device)

    def saved(self, name: str) -> int:
        """Return the bytes kept for the backward pass."""
        row = self.rows[name]
        return measure.saved_bytes(row.plain, row.forward)

    def peak(self, name: str) -> int | None:
        """Return the bytes of memory of one call at its peak."""
        return measure.peak_bytes(self.rows[name].step, self.device)

    def least_ms(self) -> float:
        """Return the time in which a GPU moves the fewest bytes of the backbone."""
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
    """Draw a gradient for each map, the same every time, in the map's own strides."""
    with torch.no_grad():
        maps = tree_leaves(model(images))
    torch.manual_seed(2)
    return [torch.empty_like(m).copy_(torch.randn(m.shape)) for m in maps]


def _optimize(model: nn.Module, backend: str, dtype: torch.dtype) -> nn.Module:
    """Return mmmeta's optimized form, folded in float32."""
    if isinstance(model, models.Tensors):
        return models.Tensors(_optimize(model.model, backend, dtype)).to(dtype)
    return mmmeta.optimize(model, backend=backend, dtype=dtype)


def _compile(model: nn.Module, mode: str) -> Callable[[Tensor], Any]:
    if mode == 'eager':
        return model
    # Said either way: Dynamo takes what it compiled for another row of the same code
    # where options are equal and only the weights are others.
    return torch.compile(model, options=dict(freezing=mode == 'frozen'))


def difference(found: Mapping, expected: Mapping, dtype: torch.dtype) -> float:
    """Return how far outputs are off: the greatest of all maps, and of the gradients.

    Of a map it is the largest difference (in bfloat16, where single values are mostly
    rounding, the root mean square) over the map's standard deviation, of the gradients
    the norm of the difference over theirs.

    Raises:
        ValueError: Shapes or names differ, or a value is not finite.
    """
    maps, wanted = found['maps'], expected['maps']
    shapes, wanted_shapes = ([tuple(m.shape) for m in each] for each in (maps, wanted))
    if shapes != wanted_shapes:
        raise ValueError(f'its maps are {shapes}, not {wanted_shapes}')
    grads, wanted_grads = found['grads'], expected['grads']
    if odd := grads.keys() ^ wanted_grads.keys():
        raise ValueError(f'{min(odd)} has a gradient in one implementation alone')
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
    """Answer until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter('ignore')
    session = Session(Path(sys.argv[1]))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer = dict(result=getattr(session, method)(**arguments))
        except Exception as error:  # one row's failure; the others go on
            traceback.print_exc()
            text = str(error).strip() or type(error).__name__
            answer = dict(error=text.splitlines()[0])
        print(json.dumps(answer), file=answers)


if __name__ == '__main__':
    main()
