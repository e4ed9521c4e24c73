"""Configs and their models, for the tests of every kind of config."""

import copy
import functools
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


@functools.cache
def load(folder: str, name: str) -> Config:
    """Return the config configs/FOLDER/NAME.py, read once; it must not be changed."""
    return Config.fromfile(CONFIGS / folder / f'{name}.py')


def build(folder: str, name: str) -> torch.nn.Module:
    """Build a config's model without weights, as a runner would."""
    cfg = load(folder, name)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(copy.deepcopy(cfg.model))
