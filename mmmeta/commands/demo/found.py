"""Which models the page offers."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmmeta.errors import UserError
from mmmeta.hosts.config import load_config
from mmmeta.hosts.libraries import LIBRARIES, library_of
from mmmeta.weights.locate import is_remote


@dataclass(frozen=True)
class Model:
    """A config with its checkpoint.

    Attributes:
        config: A file, or LIBRARY::PATH.
        checkpoint: A file, an address or mmmeta://NAME.
        task: 'detection', 'segmentation' or 'classification'.
    """

    config: str
    checkpoint: str
    task: str

    @property
    def key(self) -> str:
        return f'{self.config} {self.checkpoint}'

    @property
    def label(self) -> str:
        """What the page calls it: the config, and the checkpoint with its folder."""
        checkpoint = '/'.join(self.checkpoint.rsplit('/', 2)[-2:])
        return f'{Path(self.config).stem} ({checkpoint})'


def make_model(config: str, checkpoint: str) -> Model:
    """Return the model of a config and a checkpoint; reads the config alone.

    Raises:
        UserError: One of the two is not there, or the config is not of a detector,
            segmentor or classifier.
    """
    scope = library_of(load_config(config), config)
    if not is_remote(checkpoint) and not os.path.isfile(checkpoint):
        raise UserError(
            f'no checkpoint {checkpoint}; expected a file, an address or mmmeta://NAME'
        )
    return Model(config, checkpoint, LIBRARIES[scope].task)


def find_models(root: str | os.PathLike = 'work_dirs') -> tuple[list[Model], list[str]]:
    """Look for what was trained: folders in `root` with a config and a checkpoint.

    In each, the newest of either counts, and best_*.pth before other checkpoints.

    Returns:
        The models by name of the folder, and why folders were left out, a line each.
    """
    models, left_out = [], []
    for folder in sorted(Path(root).glob('*/')):
        config = _newest(folder.glob('*.py'))
        checkpoint = _newest(folder.glob('best_*.pth')) or _newest(folder.glob('*.pth'))
        if config is None or checkpoint is None:
            continue
        try:
            models.append(make_model(str(config), str(checkpoint)))
        except UserError as error:
            left_out.append(str(error))
    return models, left_out


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)
