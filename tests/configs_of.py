"""Configs and their models, for the tests of every kind of config."""

import ast
import copy
import functools
from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from undrawn import nothing_drawn

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


@functools.cache
def load(folder: str, name: str) -> Config:
    """Return the config configs/FOLDER/NAME.py, read once; it must not be changed."""
    return Config.fromfile(CONFIGS / folder / f'{name}.py')


def build(folder: str, name: str) -> torch.nn.Module:
    """Build a config's model without weights, as a runner would."""
    cfg = load(folder, name)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'), nothing_drawn():
        return MODELS.build(copy.deepcopy(cfg.model))


def docstring(folder: str, name: str) -> str:
    return ast.get_docstring(ast.parse((CONFIGS / folder / f'{name}.py').read_text()))


@functools.cache
def listed(folder: str) -> dict[str, dict]:
    """Return the models of a folder's metafile by their names."""
    text = (CONFIGS / folder / 'metafile.yml').read_text()
    return {model['Name']: model for model in yaml.safe_load(text)['Models']}
