"""The models that the page offers."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmmeta.errors import UserError, printable
from mmmeta.hosts.config import load_config
from mmmeta.hosts.libraries import LIBRARIES, library_of
from mmmeta.weights.locate import is_remote


@dataclass(frozen=True)
class Model:
    """A config with its checkpoint.

    Attributes:
        config: A file, or LIBRARY::PATH.
        checkpoint: A file, a URL or mmmeta://NAME.
        task: 'detection', 'segmentation' or 'classification'.
    """

    config: str
    checkpoint: str
    task: str

    @property
    def key(self) -> str:
        return printable(f'{self.config} {self.checkpoint}')

    @property
    def label(self) -> str:
        """Its name on the page: the config, and the checkpoint with its folder."""
        checkpoint = '/'.join(self.checkpoint.rsplit('/', 2)[-2:])
        return printable(f'{Path(self.config).stem} ({checkpoint})')


def make_model(config: str, checkpoint: str) -> Model:
    """Return the model of a config and a checkpoint; reads only the config.

    Raises:
        UserError: One of the two does not exist, or the config is not for a detector,
            segmentor or classifier.
    """
    scope = library_of(load_config(config), config)
    if not is_remote(checkpoint) and not os.path.isfile(checkpoint):
        raise UserError(
            f'no checkpoint {checkpoint}; expected a file, a URL or mmmeta://NAME'
        )
    return Model(config, checkpoint, LIBRARIES[scope].task)


def find_models(root: str | os.PathLike = 'work_dirs') -> tuple[list[Model], list[str]]:
    """Find trained models: folders in `root` with a config and a checkpoint.

    The newest of each is used, and best_*.pth is preferred to other checkpoints.

    Returns:
        The models by folder name, and one line for each skipped folder with the reason.
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
    files = (path for path in paths if path.is_file())  # a link may lead nowhere
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
