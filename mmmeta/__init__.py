"""MetaFormer backbones for MMDetection, MMSegmentation and MMPretrain."""

import os
import sys
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

    Raises:
        ImportError: MMEngine is missing.
    """
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError as error:
        raise ImportError(
            'mmmeta needs MMEngine: pip install "mmmeta-backbones[onedl]" (the '
            'maintained forks of MMEngine and its libraries) or '
            '"mmmeta-backbones[openmmlab]"; `mmmeta doctor` looks at what is installed'
        ) from error
    MODULE2PACKAGE['mmmeta'] = 'mmmeta'
    if find_spec('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


# `mmmeta doctor` must run where MMEngine is missing or broken, to say so; `-m` is what
# `python -m mmmeta.cli` is called while it imports the package.
_command = [os.path.basename(part) for part in sys.argv[:2]]
if _command not in (['mmmeta', 'doctor'], ['-m', 'doctor']):
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
