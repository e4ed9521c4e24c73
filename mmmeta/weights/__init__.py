"""Weights: layouts of published checkpoints, strict loading, the zoo, downloads.

The names below are imported on first use: the zoo does not need PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmmeta.weights.convert import convert_checkpoint as convert_checkpoint
    from mmmeta.weights.errors import CheckpointError as CheckpointError
    from mmmeta.weights.layouts import LAYOUT_NAMES as LAYOUT_NAMES
    from mmmeta.weights.loading import load_backbone as load_backbone
    from mmmeta.weights.loading import load_checkpoint as load_checkpoint
    from mmmeta.weights.loading import load_classifier as load_classifier
    from mmmeta.weights.reading import read_state_dict as read_state_dict

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
