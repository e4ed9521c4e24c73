"""mmmeta:// wherever MMEngine accepts a checkpoint: `load_from`, `--resume`, hubs.

MMEngine 0.10.7 reads files with PyTorch's defaults, and PyTorch 2.6 and later reject
the log in MMEngine's own checkpoints; this module enables reading them.
"""

import os
import pickle
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from mmmeta.weights.layouts import MMMETA
from mmmeta.weights.locate import SCHEME, locate
from mmmeta.weights.reading import read_state_dict, safe_globals
from mmmeta.weights.state import parse, to_layout


def load_from_mmmeta(
    filename: str, map_location: Any = None
) -> dict[str, dict[str, Tensor]]:
    """Return a published checkpoint in the names of mmmeta's classifiers.

    Backbone keys start with `backbone.`, so it fits both a whole model and a backbone.
    Read without executing code, as everywhere in mmmeta.

    Args:
        filename: mmmeta://NAME.
        map_location: As for `torch.load`. Default: None.

    Raises:
        CheckpointError: An unknown name, no network, or a bad file.
    """
    state = read_state_dict(locate(filename), map_location=map_location or 'cpu')
    return {'state_dict': to_layout(parse(state), MMMETA.name)}


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Return a file's content, with its log in the form that MMEngine resumes.

    Args:
        filename: A file written by MMEngine, or another file of plain data.
        map_location: As for `torch.load`. Default: None.

    Raises:
        FileNotFoundError: The file does not exist.
        pickle.UnpicklingError: It contains more than plain data.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    with torch.serialization.safe_globals(safe_globals(HistoryBuffer, _statistic)):
        # PyTorch and its environment variables decide on `weights_only`.
        return torch.load(filename, map_location=map_location)


def _statistic(owner: Any, name: Any) -> Any:
    """Replace `getattr` in a pickle: return MMEngine's own statistics of a log."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.getattr')
    return getattr(HistoryBuffer, name)


CheckpointLoader.register_scheme(SCHEME, load_from_mmmeta, force=True)
if not hasattr(checkpoint, 'get_torch_safe_globals'):  # the forks have their own list
    CheckpointLoader.register_scheme('', load_from_local, force=True)
