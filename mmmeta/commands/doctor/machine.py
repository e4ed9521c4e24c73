"""The GPU, the memory, the disk, and the cache of weights."""

import os
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from mmmeta.commands.doctor.finding import Finding
from mmmeta.commands.doctor.libraries import Probes

GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 2 * GIB, GIB  # for training a detector; its checkpoints
NEW_TORCH = 'pip install --upgrade --force-reinstall torch torchvision'


def check_machine(probes: Probes) -> list[Finding]:
    """Return findings about the machine's resources."""
    return [
        *_check_gpus(probes['torch']),
        _check_cores(probes['torch']),
        _check_memory(),
        _check_disk(),
        _check_allocator(probes['allocator']),
        *_check_weights(probes['weights']),
    ]


def _check_gpus(torch: dict[str, Any]) -> list[Finding]:
    driver = _nvidia_driver()
    if not torch.get('gpus'):
        if not driver or 'error' in torch:
            return [Finding('GPU', '-', 'none was found')]
        if 'CUDA_VISIBLE_DEVICES' in os.environ:
            text = 'hidden from PyTorch by CUDA_VISIBLE_DEVICES'
            return [Finding('GPU', 'warning', text, 'unset CUDA_VISIBLE_DEVICES')]
        text = f'driver {driver} is installed, but PyTorch sees no GPU: {torch["why"]}'
        # PyTorch is built without CUDA, or for a CUDA that the driver does not support.
        return [Finding('GPU', 'problem', text, NEW_TORCH)]
    findings = []
    for gpu in torch['gpus']:
        major, minor = gpu['capability']
        text = (
            f'{gpu["name"]}, compute capability {major}.{minor}, '
            f'{_gib(gpu["free"])} of {_gib(gpu["total"])} GiB free, '
            f'driver {driver}, CUDA {torch["cuda"]}'
        )
        if _has_code(torch['archs'], major, minor):
            findings.append(Finding('GPU', 'ok', text))
        else:
            text += f'; PyTorch has code for {" ".join(torch["archs"])} only'
            findings.append(Finding('GPU', 'problem', text, NEW_TORCH))
    return findings


def _has_code(archs: list[str], major: int, minor: int) -> bool:
    """Binaries run on later GPUs of the same generation, PTX on all later GPUs."""
    for arch in archs:
        kind, _, number = arch.partition('_')
        digits = ''.join(filter(str.isdigit, number))
        made_for = int(digits[:-1]), int(digits[-1])
        if made_for <= (major, minor) and (kind == 'compute' or made_for[0] == major):
            return True
    return False


def _nvidia_driver() -> str:
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.split('\n')[0].strip() if done.returncode == 0 else ''


def _check_cores(torch: dict[str, Any]) -> Finding:
    own = os.environ.get('OMP_NUM_THREADS')
    threads = torch.get('threads', 'unknown')
    text = f'{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores available; '
    text += f"PyTorch's threads: {threads}"
    return Finding('CPU', 'ok', text + (f' (OMP_NUM_THREADS={own})' if own else ''))


def _check_memory() -> Finding:
    lines = Path('/proc/meminfo').read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, rest in (x.split(':') for x in lines)}
    total, free = kib['MemTotal'] * 1024, kib['MemAvailable'] * 1024
    group = Path('/sys/fs/cgroup')  # limits of a container
    try:
        limit = int((group / 'memory.max').read_text())
        used = int((group / 'memory.current').read_text())
    except (OSError, ValueError):
        pass
    else:
        total, free = min(total, limit), min(free, limit - used)
    text = f'{_gib(free)} of {_gib(total)} GiB free'
    if free < LITTLE_MEMORY:
        fix = 'ps aux --sort=-rss | head'
        return Finding('memory', 'warning', f'{text}; training needs more', fix)
    return Finding('memory', 'ok', text)


def _check_disk() -> Finding:
    usage = shutil.disk_usage('.')
    text = f'{_gib(usage.free)} of {_gib(usage.total)} GiB free here'
    if usage.free < LITTLE_DISK:
        fix = 'du -sh work_dirs/* | sort -h'
        return Finding('disk', 'warning', f'{text}; checkpoints need more', fix)
    return Finding('disk', 'ok', text)


def _gib(size: int) -> str:
    return f'{size / GIB:.1f}'


def _check_allocator(probe: dict[str, Any]) -> Finding:
    if probe.get('tuned'):
        text = 'the tools let glibc keep freed memory (MMMETA_MALLOC=0 disables this)'
    else:
        text = (
            'not changed by the tools: a GPU, your own settings, no glibc, or '
            'MMMETA_MALLOC=0'
        )
    return Finding('allocator', 'ok', text)


def _check_weights(probe: dict[str, Any]) -> list[Finding]:
    if 'error' in probe:
        text = textwrap.shorten(f'not checked: {probe["error"]}', 80)
        return [Finding('weights', '-', text)]
    text = f'{probe["count"]} files, {_gib(probe["size"])} GiB in {probe["folder"]}'
    findings = [Finding('weights', 'ok', text)]
    for file in probe['unfinished']:
        text = f'{file} is incomplete; the next download will resume it'
        fix = f'rm {shlex.quote(file)}'
        findings.append(Finding('weights', 'warning', text, fix))
    for file, text in probe['damaged'].items():
        fix = f'rm {shlex.quote(file)}'
        findings.append(Finding('weights', 'problem', text, fix))
    return findings
