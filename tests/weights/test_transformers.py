"""transformers' PoolFormer and ours give the same outputs, both ways.

It runs in a process of its own: where it is imported, so is much of what MMPretrain's
multimodal models need.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmmeta
from mmmeta.models import PoolFormer
from mmmeta.registry import MODELS
from mmmeta.weights.state import parse, to_layout

TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('transformers') is None, reason='needs transformers'
)

# Reads jobs (config, images, weights or None), writes weights and outputs.
SCRIPT = """
import sys, torch
from transformers import PoolFormerConfig, PoolFormerForImageClassification
jobs = torch.load(sys.argv[1])
for job in jobs.values():
    torch.manual_seed(0)
    model = PoolFormerForImageClassification(PoolFormerConfig(**job['config'])).eval()
    if job['state'] is None:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.dim() > 1:
                    value.normal_(std=(1 / value[0].numel()) ** 0.5)
                else:
                    value.normal_(0.05 if name.endswith('bias') else 1, 0.1)
        job['state'] = model.state_dict()
    else:
        model.load_state_dict(job['state'], strict=True)
    with torch.no_grad():
        job['logits'] = model(job['images']).logits
        job['map'] = model.poolformer(job['images']).last_hidden_state
    job['bare'] = model.poolformer.state_dict()
torch.save(jobs, sys.argv[1])
"""


def reference(jobs: dict, path: Path) -> dict:
    torch.save(jobs, path)
    subprocess.run([sys.executable, '-c', SCRIPT, path], check=True)
    return torch.load(path)


def job(size: str, state: dict | None = None) -> dict:
    arch = PoolFormer.archs[size]
    config = dict(
        depths=list(arch.depths), hidden_sizes=list(arch.dims), num_labels=1000
    )
    return dict(config=config, images=torch.randn(2, 3, 64, 64), state=state)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def check(sizes: list[str], path: Path) -> None:
    fresh = {size: mmmeta.create_model(f'poolformer_{size}').eval() for size in sizes}
    jobs = {f'to {size}': job(size) for size in sizes}
    for size, model in fresh.items():
        state = to_layout(parse(model.state_dict()), 'transformers')
        jobs[f'from {size}'] = job(size, state)
    jobs = reference(jobs, path)
    with torch.no_grad():
        for size in sizes:
            done = jobs[f'to {size}']
            ours = mmmeta.create_model(f'poolformer_{size}', checkpoint=done['state'])
            assert error(ours.eval()(done['images']), done['logits']) < TOLERANCE
            dense = MODELS.build(
                dict(type='mmmeta.PoolFormer', arch=size, out_norm=False)
            )
            dense.load_state_dict(done['bare'])
            assert error(dense.eval()(done['images'])[-1], done['map']) < TOLERANCE
            done = jobs[f'from {size}']
            assert error(fresh[size](done['images']), done['logits']) < TOLERANCE


def test_s12_both_ways(tmp_path):
    check(['s12'], tmp_path / 'jobs.pth')


@pytest.mark.slow
def test_other_sizes_both_ways(tmp_path):
    sizes = [size for size in PoolFormer.archs if size != 's12']
    assert len(sizes) == 4
    check(sizes, tmp_path / 'jobs.pth')
