"""Tiny trained models, shared by the tests of a file."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_models import write_model


@pytest.fixture(autouse=True)
def _no_logging_errors(monkeypatch) -> None:
    """MMEngine's logger keeps the stdout of the test that first used it."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('models')


@pytest.fixture(scope='module')
def classifier(folder) -> list[str]:
    return write_model(folder, 'classification', 3)


@pytest.fixture(scope='module')
def segmentor(folder) -> list[str]:
    def always_five(model: torch.nn.Module) -> None:
        model.decode_head.conv_seg.bias.data[5] = 1000.0

    names = dict(classes=('circle', 'cross'), palette=[(1, 2, 3)])
    return write_model(folder, 'segmentation', 7, names, always_five)


@pytest.fixture(scope='module')
def detector(folder) -> list[str]:
    return write_model(folder, 'detection', 3, dict(classes=('a', 'b', 'a')))
