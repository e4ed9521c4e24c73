"""The backend 'triton' where no GPU is: interpreted, compiled, and refused."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS

import mmmeta
from mmmeta.errors import UserError
from mmmeta.models import MetaFormer

triton = pytest.importorskip('triton')

PYTEST = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider']
SHALLOW = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 64))


def _build(family: str) -> MetaFormer:
    return MODELS.build(dict(type=f'mmmeta.{family}', arch=SHALLOW)).eval()


@pytest.mark.slow
def test_the_kernels_in_the_interpreter(root):
    """The cases in interpreted.py; their own process says why there."""
    found = subprocess.run(
        [*PYTEST, 'tests/ops/interpreted.py'],
        cwd=root,
        env=dict(os.environ, TRITON_INTERPRET='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert found.returncode == 0, found.stdout


TILE = dict(block_p=64, block_c=64)
MAPS, FACTORS = 'x y hidden branch', 'partials scale shift rstd weight bias shortcut'
# What each kernel is compiled with: constants, None among them.
LAUNCHES = [
    ('_map_partials', TILE),
    ('_norm_factors', dict(block=1024)),
    ('_pool_mix', dict(rows=4, block_w=16, block_c=64)),
    ('_pool_mix', dict(rows=4, block_w=16, block_c=32, shortcut=None)),
    ('_norm_act', dict(TILE, act='gelu')),
    ('_norm_act', dict(TILE, act='star')),
    ('_add_branch', TILE),
    ('_add_branch', dict(TILE, branch=None, bias=None, shortcut=None)),
]


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason='Triton interprets')
@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
def test_the_kernels_compile_for_a_gpu(dtype, tmp_path, monkeypatch):
    """What the interpreter lets pass. For capability 8.0; no GPU is needed."""
    from triton.backends.compiler import GPUTarget

    from mmmeta.ops import gpu_kernels

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    types = dict.fromkeys(MAPS.split(), f'*{dtype}')
    types |= dict.fromkeys(FACTORS.split(), '*fp32') | dict(size='fp32', eps='fp32')
    for name, constants in LAUNCHES:
        kernel = getattr(gpu_kernels, name)
        signature = {
            arg: 'constexpr' if arg in constants else types.get(arg, 'i32')
            for arg in kernel.arg_names
        }
        source = triton.compiler.ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', 80, 32))
        assert compiled.asm['cubin']


def test_which_stages_get_kernels():
    from mmmeta.optimized.gpu_blocks import Blocks, to_triton

    def stages(backbone):
        with torch.no_grad():
            fast = to_triton(backbone, torch.float32)
        return [isinstance(stage.blocks[0], Blocks) for stage in fast.stages]

    assert stages(_build('PoolFormer')) == [True] * 4
    assert stages(_build('RandFormer')) == [True, True, False, False]
    with pytest.raises(UserError, match=r'ConvFormer has none: use backend=.inductor'):
        stages(_build('ConvFormer'))


def test_a_cpu_is_refused():
    with pytest.raises(
        UserError, match=r'capability 7\.0 .*on cpu: use model'
    ) as error:
        mmmeta.optimize(_build('PoolFormer'), backend='triton')
    assert '\n' not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
@pytest.mark.parametrize('family', ['PoolFormer', 'PoolFormerV2', 'IdentityFormer'])
def test_on_a_gpu(family, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    plain = _build(family).cuda()
    fast = mmmeta.optimize(plain, backend='triton')
    images = torch.randn(2, 3, 97, 131, device='cuda')
    with torch.no_grad():
        for found, expected in zip(fast(images), plain(images), strict=True):
            assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.slow
def test_no_triton_is_needed_until_it_is_asked_for():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        'import mmmeta\n'
        "model = mmmeta.create_model('poolformer_s12')\n"
        "try: mmmeta.optimize(model, backend='triton')\n"
        'except mmmeta.errors.UserError as error: print(error)\n'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'on cpu, Triton is not installed: use' in found.stdout, found.stderr
