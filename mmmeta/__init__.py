"""MetaFormer backbones for MMDetection, MMSegmentation and MMPretrain."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mmmeta_finder  # noqa: F401  for Pythons that read no .pth file of ours
from mmmeta.version import __version__

__all__ = ['__version__', 'create_model', 'list_models', 'optimize']


def _register_with_mmengine() -> None:
    """Make `mmmeta::` configs resolve, and `mmseg::` ones.

    MMEngine looks for a distribution named mmsegmentation, and the forks' has another
    name.
    """
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except Exception:  # missing or broken: `mmmeta.registry` says so, the doctor why
        return
    MODULE2PACKAGE['mmmeta'] = 'mmmeta'
    if find_spec('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


_register_with_mmengine()

# Loaded at first use: listing names must not wait for PyTorch.
_LAZY = {
    'create_model': 'mmmeta.models.build',
    'list_models': 'mmmeta.weights.zoo',
    'optimize': 'mmmeta.optimized.optimize',
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
