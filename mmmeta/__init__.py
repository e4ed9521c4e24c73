"""MetaFormer backbones for MMDetection, MMSegmentation and MMPretrain."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import mmmeta_finder  # noqa: F401  in case Python did not process our .pth file
from mmmeta.version import __version__

if TYPE_CHECKING:
    from mmmeta.hosts.predictor import load
    from mmmeta.models.build import create_model
    from mmmeta.optimized.optimize import optimize
    from mmmeta.tuning.train import finetune
    from mmmeta.weights.names import list_models

__all__ = [
    '__version__',
    'create_model',
    'finetune',
    'list_models',
    'load',
    'optimize',
]


# Imported on first use: listing names must not wait for PyTorch.
_LAZY = {
    'create_model': 'mmmeta.models.build',
    'finetune': 'mmmeta.tuning.train',
    'list_models': 'mmmeta.weights.names',
    'load': 'mmmeta.hosts.predictor',
    'optimize': 'mmmeta.optimized.optimize',
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
