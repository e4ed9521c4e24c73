"""Small trainings by `mmmeta finetune`, shared by the tests."""

import logging
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from mmmeta.datasets._formats import write_shapes

IMAGES = dict(num_train=6, num_val=3, size=64, progress=False)


@pytest.fixture(autouse=True)
def _no_logging_errors(monkeypatch) -> None:
    """MMEngine's logger keeps the stdout of the test that first used it."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture(autouse=True)
def _own_loggers():
    """Loggers of other tests, whose files are gone, are forgotten."""
    yield
    MMLogger._instance_dict.clear()


@pytest.fixture(scope='session')
def formats(tmp_path_factory: pytest.TempPathFactory):
    """A function that returns the embedded data in a format, in a folder `shapes`."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp(name.replace('-', '_')) / 'shapes'
            made[name] = write_shapes(root, name, **IMAGES)
        return made[name]

    return get
