"""Weights: layouts of published checkpoints, strict loading, the zoo, downloads.

The names below are imported on first use: the zoo does not need PyTorch.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    'CheckpointError': 'errors',
    'LAYOUT_NAMES': 'layouts',
    'convert_checkpoint': 'convert',
    'load_backbone': 'loading',
    'load_checkpoint': 'loading',
    'load_classifier': 'loading',
    'read_state_dict': 'reading',
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_NAMES[name]}'), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
