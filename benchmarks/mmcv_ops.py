"""Time mmcv's compiled NMS and RoIAlign against mmmeta's, which use torchvision.

python -m benchmarks.mmcv_ops          (needs a compiled mmcv)

Sizes are those of a Mask R-CNN in training on two images of 800x1216. Alternatives are
interleaved in one process; a row has the medians in milliseconds, and compiled / ours.
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mmcv._ext as compiled
import torch

ROUNDS = 15
STAND_IN = Path(__file__).parents[1] / 'mmmeta/hosts/mmcv_ops'


def load_stand_in() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        'stand_in', STAND_IN / '__init__.py', submodule_search_locations=[str(STAND_IN)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its relative imports
    spec.loader.exec_module(module)
    return module


def boxes(n: int, height: int = 800, width: int = 1216) -> torch.Tensor:
    corner = torch.rand(n, 2) * torch.tensor([width, height])
    return torch.cat([corner, corner + torch.rand(n, 2) * 200 + 8], 1)


def nms_case(n: int) -> Callable[[ModuleType], torch.Tensor]:
    rows, scores = boxes(n), torch.randperm(n) / n
    return lambda ops: ops.nms(rows, scores, iou_threshold=0.7, offset=0)


def roi_case(stride: int, n: int, size: int, layout: torch.memory_format) -> dict:
    shape = (2, 256, 800 // stride, 1216 // stride)
    maps = torch.randn(shape)
    handed = maps.contiguous(memory_format=layout)
    rois = torch.cat([torch.randint(2, (n, 1)).float(), boxes(n)], 1)
    options = dict(
        aligned_height=size,
        aligned_width=size,
        spatial_scale=1 / stride,
        sampling_ratio=0,
        pool_mode=1,
        aligned=True,
    )
    none = maps.new_zeros(0)
    grad = torch.randn(n, 256, size, size)

    def forward(ops: ModuleType) -> torch.Tensor:
        output = grad.new_zeros(grad.shape)
        # The compiled one needs contiguous maps: converting them is part of its cost.
        x = handed.contiguous() if ops is compiled else handed
        ops.roi_align_forward(x, rois, output, none, none, **options)
        return output

    def backward(ops: ModuleType) -> torch.Tensor:
        grad_input = grad.new_zeros(shape)
        ops.roi_align_backward(grad, rois, none, none, grad_input, **options)
        return grad_input

    return dict(forward=forward, backward=backward)


def main() -> None:
    torch.manual_seed(0)
    stand_in = load_stand_in()
    cases = {f'nms {n} boxes': nms_case(n) for n in (1000, 2000, 8000)}
    plain, last = torch.contiguous_format, torch.channels_last
    for name, stride, n, size, layout in (
        ('boxes, stride 4', 4, 600, 7, plain),
        ('boxes, stride 4, channels_last', 4, 600, 7, last),
        ('boxes, stride 16', 16, 300, 7, plain),
        ('masks, stride 8', 8, 128, 14, plain),
    ):
        for way, call in roi_case(stride, n, size, layout).items():
            cases[f'RoIAlign {way}, {name}'] = call
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    for name, call in cases.items():
        times: dict[ModuleType, list[float]] = {compiled: [], stand_in: []}
        torch.testing.assert_close(call(compiled), call(stand_in), rtol=1e-4, atol=1e-4)
        for _ in range(ROUNDS):
            for ops, taken in times.items():
                start = time.perf_counter()
                call(ops)
                taken.append((time.perf_counter() - start) * 1e3)
        theirs, ours = (statistics.median(taken) for taken in times.values())
        print(f'{name:46} {theirs:9.2f} {ours:9.2f} {theirs / ours:6.2f}', flush=True)


if __name__ == '__main__':
    main()
