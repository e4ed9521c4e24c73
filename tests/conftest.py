"""Fixtures shared by several test files."""

import os
from pathlib import Path

import pytest
import torch

# Tests of FORK_LAST3 set it themselves.
os.environ.pop('FORK_LAST3', None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small embedded data set: 24 training and 8 validation images of 128x128."""
    from mmmeta.datasets import make_shapes

    return make_shapes(
        tmp_path_factory.mktemp('data') / 'shapes',
        num_train=24,
        num_val=8,
        size=128,
        progress=False,
    )
