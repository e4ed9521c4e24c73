"""Golden checkpoints, and files made from them."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parent.parent / 'data' / 'golden'


def _load_fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location('golden_fill', DATA / 'fill.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill()


@dataclass(frozen=True)
class Golden:
    """One golden file: a reference's keys and its outputs for synthetic weights."""

    name: str

    @cached_property
    def content(self) -> dict:
        return json.loads((DATA / f'{self.name}.json').read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return dict(np.load(DATA / f'{self.name}.npz'))

    @property
    def arch(self) -> str:
        return self.name.removesuffix('_dense')

    @property
    def layout(self) -> str:
        return self.content['layout']

    @property
    def cases(self) -> list[dict]:
        return self.content['cases']

    @property
    def keys(self) -> dict[str, list[int]]:
        return self.content['keys']

    def checkpoint(self) -> dict[str, Tensor]:
        """Return the official state_dict."""
        return {
            key: torch.from_numpy(fill.fill(key, tuple(shape)))
            for key, shape in self.keys.items()
        }

    def image(self, case: dict) -> Tensor:
        return torch.from_numpy(fill.image(case['height'], case['width']))

    def worst(self, case: dict, outputs: list[Tensor]) -> float:
        """Return the largest error of the outputs, in standard deviations."""
        assert [list(out.shape) for out in outputs] == case['shapes']
        pairs = zip(outputs, case['arrays'], case['std'], strict=True)
        return max(
            float(np.abs(fill.sample(out.numpy()) - self.arrays[name]).max() / std)
            for out, name, std in pairs
        )


NAMES = sorted(path.stem for path in DATA.glob('*.json'))


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Open a golden file by name."""
    return Golden


@pytest.fixture
def golden_names() -> list[str]:
    """The names of all golden files."""
    return NAMES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `golden_name` with every golden file; large ones are slow."""
    if 'golden_name' in metafunc.fixturenames:
        marks = {name: pytest.mark.slow for name in NAMES if '36' in name}
        metafunc.parametrize(
            'golden_name', [pytest.param(n, marks=marks.get(n, ())) for n in NAMES]
        )
