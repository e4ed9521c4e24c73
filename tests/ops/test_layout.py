"""The memory format of a backbone's output maps."""

import sys
from types import ModuleType

import pytest
import torch
from mmengine.registry import MODELS

import mmmeta

LAST = torch.channels_last


@pytest.fixture
def backbone() -> torch.nn.Module:
    arch = dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))
    return MODELS.build(dict(type='mmmeta.PoolFormer', arch=arch)).eval()


@pytest.fixture
def compiled(monkeypatch) -> None:
    """An mmcv whose operators treat all memory as contiguous."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ModuleType('mmcv._ext'))


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('prepare', [lambda x: x, mmmeta.optimize])
def test_contiguous_for_compiled_operators(backbone, compiled, batch, prepare):
    images = torch.randn(batch, 3, 64, 96)
    maps = prepare(backbone)(images)
    assert all(x.is_contiguous() for x in maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, 'mmcv._ext')
        other = prepare(backbone)(images)
    assert all(x.is_contiguous(memory_format=LAST) for x in other)
    torch.testing.assert_close(maps, other)


def test_as_they_are_for_the_stand_in(backbone):
    import mmcv._ext

    assert mmcv._ext.READS_STRIDES
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert all(x.is_contiguous(memory_format=LAST) for x in maps)
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True)
    found = compiled(torch.randn(1, 3, 64, 96))
    assert [x.shape for x in found] == [x.shape for x in maps]
