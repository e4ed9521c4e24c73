"""Training under autocast on the embedded data stays finite, for every family."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmmeta.models import FAMILIES
from mmmeta.models.layers import FLOAT16_MAX, StarReLU, _warn_of_float16

STEPS = 60
BATCH = 2
SIZE = 32  # pixels; float16 on a CPU takes ten times as long as float32


@pytest.fixture(scope='module')
def data(shapes: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 3, SIZE, SIZE), normalized, and semantic maps (N, SIZE, SIZE)."""
    images, maps = [], []
    for path in sorted((shapes / 'images/train').glob('*')):
        images.append(cv2.resize(cv2.imread(str(path)), (SIZE, SIZE)))
        label = cv2.imread(
            str(shapes / f'semantic/train/{path.stem}.png'), cv2.IMREAD_UNCHANGED
        )
        maps.append(cv2.resize(label, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (pixels - 120) / 58, torch.from_numpy(np.stack(maps)).long()


class Segmentor(nn.Module):
    """A backbone and a linear layer on the sum of its maps."""

    def __init__(self, family: str, classes: int) -> None:
        super().__init__()
        dims = (16, 32, 64, 64)
        arch = dict(depths=(1, 1, 1, 1), dims=dims)
        self.backbone = MODELS.build(dict(type=f'mmmeta.{family}', arch=arch))
        self.heads = nn.ModuleList(nn.Conv2d(dim, classes, 1) for dim in dims)

    def forward(self, x: Tensor) -> Tensor:
        maps = [head(m) for head, m in zip(self.heads, self.backbone(x), strict=True)]
        return sum(F.interpolate(m, x.shape[2:], mode='bilinear') for m in maps)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:StarReLU squares')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_training_stays_finite(family, dtype, data):
    images, maps = data
    model = Segmentor(family, int(maps.max()) + 1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    losses, scales = [], []
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,))
        with torch.autocast('cpu', dtype):
            logits = model(images[chosen])
        loss = F.cross_entropy(logits.float(), maps[chosen])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
        scales.append(scaler.get_scale())
    assert np.isfinite(losses).all()
    assert all(p.isfinite().all() for p in model.parameters())
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    # The initial scale is high by design; later no step may be lost to an overflow.
    assert len(set(scales[STEPS // 4 :])) == 1


def test_starrelu_in_float16_is_finite_and_warns_once():
    act = StarReLU(scale=2.0, bias=-1.0).half().train()
    x = torch.tensor([-3.0, 2.0, 300.0, 60000.0], dtype=torch.float16)
    x.requires_grad_()
    _warn_of_float16.cache_clear()
    with pytest.warns(UserWarning, match='bfloat16'):
        y = act(x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        act(x)
    assert y.dtype == torch.float16
    assert y.tolist() == [-1.0, 7.0, FLOAT16_MAX, FLOAT16_MAX]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 8.0, 0.0, 0.0]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('family', [f.__name__ for f in FAMILIES])
def test_whole_models_in_half_precision(family, dtype):
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 128))
    model = MODELS.build(dict(type=f'mmmeta.{family}', arch=arch)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        found = model.to(dtype)(images.to(dtype))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert (a.float() - b).abs().max() < 0.1 * b.std()
