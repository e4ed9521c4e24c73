"""The environment of a run, to print with its results."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmmeta.version import __version__

# Import name: distributions that provide it.
LIBRARIES = {
    'timm': ('timm',),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'openvino': ('openvino',),
}
VARIABLES = ('MALLOC_', 'GLIBC_TUNABLES', 'OMP_', 'KMP_', 'LD_PRELOAD', 'TORCHINDUCTOR')


def environment(device: str, tuned: bool) -> dict[str, Any]:
    """Return versions, the CPU and the settings of this process.

    Args:
        device: 'cpu' or 'cuda'.
        tuned: Whether `mmmeta.hosts.allocator.tune_allocator` changed the allocator.
    """
    facts = dict(
        python=platform.python_version(),
        mmmeta=__version__,
        torch=torch.__version__,
        **{name: _version(names) for name, names in LIBRARIES.items()},
        system=f'{platform.system()} {platform.release()}',
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        allocator='tuned' if tuned else 'stock',
        variables={k: v for k, v in os.environ.items() if k.startswith(VARIABLES)},
    )
    if device == 'cuda':
        facts['gpu'] = torch.cuda.get_device_name()
        facts['cuda'] = torch.version.cuda
    return facts


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _cpu() -> str:
    with suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
