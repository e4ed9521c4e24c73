"""MetaFormer backbones for MMDetection, MMSegmentation and MMPretrain."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmmeta.version import __version__

try:
    from mmengine.config.utils import MODULE2PACKAGE
except ImportError as error:
    raise ImportError(
        'mmmeta needs MMEngine: pip install "mmmeta-backbones[onedl]" (the maintained '
        'forks of MMEngine and its libraries) or "mmmeta-backbones[openmmlab]"'
    ) from error

__all__ = ['__version__', 'create_model', 'list_models']

# Makes `mmmeta::` configs resolve, and `mmseg::` ones: MMEngine looks for a
# distribution named mmsegmentation, and the forks' has another name.
MODULE2PACKAGE['mmmeta'] = 'mmmeta'
if find_spec('mmseg'):
    MODULE2PACKAGE['mmseg'] = 'mmseg'

# Loaded at first use: listing names must not wait for PyTorch.
_LAZY = {'create_model': 'mmmeta.models.build', 'list_models': 'mmmeta.weights.zoo'}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
