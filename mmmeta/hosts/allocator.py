"""Tuning of glibc's allocator for running models on a CPU."""

import ctypes
import os
import os.path as osp

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def tune_allocator() -> bool:
    """Let glibc keep freed memory, which makes training on a CPU faster.

    By default it returns each large buffer to the system and gets the next one page by
    page. With this setting a process keeps its peak memory until it ends. Nothing is
    changed on machines with a GPU, where it makes no difference, if users have their
    own settings (`MALLOC_*`, `GLIBC_TUNABLES`), or with MMMETA_MALLOC=0.

    Returns:
        Whether the setting was changed.
    """
    own = any(k.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for k in os.environ)
    gpu = osp.exists('/dev/nvidiactl')
    if own or gpu or os.environ.get('MMMETA_MALLOC') == '0':
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
