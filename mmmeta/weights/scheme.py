"""mmmeta:// wherever MMEngine takes a checkpoint: `load_from`, `--resume`, hubs.

There MMEngine 0.10.7 reads files as PyTorch does by default, and PyTorch 2.6 and later
refuse the log in MMEngine's own ones; with this module it can read those too.
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
    """Return a published checkpoint under the names of mmmeta's own classifier.

    Its backbone is under `backbone.`, so that it suits a whole model as well as a
    backbone. Read without running code, as everywhere in mmmeta.

    Args:
        filename: mmmeta://NAME.
        map_location: As for `torch.load`. Default: None.

    Raises:
        CheckpointError: An unknown name, no network, or a bad file.
    """
    state = read_state_dict(locate(filename), map_location=map_location or 'cpu')
    return {'state_dict': to_layout(parse(state), MMMETA.name)}


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Return what a file holds, its log as MMEngine resumes it.

    Args:
        filename: A file that MMEngine wrote, or another of plain data.
        map_location: As for `torch.load`. Default: None.

    Raises:
        FileNotFoundError: There is no such file.
        pickle.UnpicklingError: It holds more than data.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    with torch.serialization.safe_globals(safe_globals(HistoryBuffer, _statistic)):
        # `weights_only` is left to PyTorch, and so to its environment variables.
        return torch.load(filename, map_location=map_location)


def _statistic(owner: Any, name: Any) -> Any:
    """Stand in for `getattr` in a pickle: MMEngine's own statistics of a log."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.getattr')
    return getattr(HistoryBuffer, name)


CheckpointLoader.register_scheme(SCHEME, load_from_mmmeta, force=True)
if not hasattr(checkpoint, 'get_torch_safe_globals'):  # the forks have their own list
    CheckpointLoader.register_scheme('', load_from_local, force=True)
