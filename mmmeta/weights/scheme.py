"""mmmeta:// wherever MMEngine takes a checkpoint: `load_from`, `--resume`, hubs."""

from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from mmmeta.weights.layouts import MMMETA
from mmmeta.weights.locate import SCHEME, locate
from mmmeta.weights.reading import read_state_dict
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


CheckpointLoader.register_scheme(SCHEME, load_from_mmmeta, force=True)
