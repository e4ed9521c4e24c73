"""Every kind of block compiles as one graph, without recompiling for new sizes."""

import pytest
import torch
from mmengine.registry import MODELS
from torch._dynamo.testing import CompileCounterWithBackend

from mmmeta.models import FAMILIES

ARCH = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 64))
KINDS = {f.__name__: dict(type=f'mmmeta.{f.__name__}') for f in FAMILIES}
# IdentityFormer's and PoolFormerV2's blocks are RandFormer's with other mixers,
# ConvFormer's are those of CAFormer's first stages; and the fourth stage of
# UniFormer-window attends to the whole map.
ALIKE = ('IdentityFormer', 'PoolFormerV2', 'ConvFormer', 'UniFormer')
KINDS['UniFormer-window'] = dict(KINDS['UniFormer'], attention='window', window_size=3)
SIZES = [(256, 320), (224, 352), (289, 301), (320, 256), (500, 333), (256, 320)]


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiles(model: torch.nn.Module) -> tuple:
    counter = CompileCounterWithBackend('aot_eager')
    return torch.compile(model, fullgraph=True, backend=counter), counter


# Blocks of the others are among these.
@pytest.mark.parametrize('kind', [k for k in KINDS if k not in ALIKE])
def test_one_graph(kind):
    config = dict(KINDS[kind], arch=ARCH, drop_path_rate=0.2, recompute_mlp=True)
    plain = MODELS.build(config).train()
    compiled, counter = compiles(plain)
    images = torch.randn(2, 3, 100, 68)
    sum(x.square().sum() for x in compiled(images)).backward()
    assert not [n for n, p in plain.named_parameters() if p.grad is None]
    plain.eval()
    with torch.no_grad():
        for a, b in zip(compiled(images), plain(images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 2  # training, inference


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['PoolFormer', 'CAFormer', 'UniFormer'])
def test_sizes_do_not_compile_it_anew(kind):
    compiled, counter = compiles(MODELS.build(dict(KINDS[kind], arch=ARCH)).eval())
    with torch.no_grad():
        for size in SIZES:
            compiled(torch.randn(1, 3, *size))
    # One for the first size, one for all others, and one if PyTorch convolves small
    # maps with a different algorithm.
    assert 2 <= counter.frame_count <= 3
