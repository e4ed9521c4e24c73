"""The models that the page offers."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmmeta.errors import UserError, printable
from mmmeta.hosts.config import load_config
from mmmeta.hosts.libraries import LIBRARIES, library_of
from mmmeta.runtime import is_exported, read_metadata
from mmmeta.weights.locate import is_remote


@dataclass(frozen=True)
class Model:
    """A config with its checkpoint, or an exported file.

    Attributes:
        config: A file, or LIBRARY::PATH; or the exported file.
        checkpoint: A file, a URL or mmmeta://NAME; None with an exported file.
        task: 'detection', 'segmentation' or 'classification'.
    """

    config: str
    checkpoint: str | None
    task: str

    @property
    def key(self) -> str:
        return printable(f'{self.config} {self.checkpoint or ""}'.strip())

    @property
    def label(self) -> str:
        """Its name on the page: the config, and the checkpoint with its folder."""
        if self.checkpoint is None:
            return printable(_with_folder(self.config))
        name = _with_folder(self.checkpoint)
        return printable(f'{Path(self.config).stem} ({name})')


def _with_folder(path: str) -> str:
    return '/'.join(path.rsplit('/', 2)[-2:])


def make_model(config: str, checkpoint: str | None = None) -> Model:
    """Return the model of a config and a checkpoint, or of an exported file.

    Reads only the config, or the file's metadata.

    Raises:
        UserError: One of them does not exist, or the config is not for a detector,
            segmentor or classifier, or the file cannot be read.
    """
    if is_exported(config):
        if checkpoint:
            raise UserError(
                f'{config} has its weights in it; expected no checkpoint, got '
                f'{checkpoint}'
            )
        return Model(config, None, read_metadata(config)['task'])
    checkpoint = checkpoint or ''
    scope = library_of(load_config(config), config)
    if not is_remote(checkpoint) and not os.path.exists(checkpoint):
        raise UserError(
            f'no checkpoint {checkpoint}; expected a file, a URL or mmmeta://NAME'
        )
    return Model(config, checkpoint, LIBRARIES[scope].task)


def find_models(root: str | os.PathLike = 'work_dirs') -> tuple[list[Model], list[str]]:
    """Find trained models: folders in `root` with a config and a checkpoint.

    The newest of each is used, and best_*.pth is preferred to other checkpoints. All
    exported files in a folder are models of their own.

    Returns:
        The models by folder name, and one line for each that is skipped, with the
        reason.
    """
    models, left_out = [], []
    for folder in sorted(Path(root).glob('*/')):
        config = _newest(folder.glob('*.py'))
        checkpoint = _newest(folder.glob('best_*.pth')) or _newest(folder.glob('*.pth'))
        files = sorted(str(file) for file in folder.iterdir() if file.is_file())
        found: list[tuple[str, ...]] = [(file,) for file in files if is_exported(file)]
        if config is not None and checkpoint is not None:
            found.insert(0, (str(config), str(checkpoint)))
        for words in found:
            try:
                models.append(make_model(*words))
            except UserError as error:
                left_out.append(str(error))
    return models, left_out


def _newest(paths: Iterable[Path]) -> Path | None:
    files = (path for path in paths if path.is_file())  # a link may lead nowhere
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
