"""transformers' PoolFormer and ours give the same outputs, both ways.

It runs in a separate process: importing it also imports much that MMPretrain's
multimodal models need.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mmpretrain.models  # noqa: F401
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

import mmmeta
from mmmeta.models import PoolFormer
from mmmeta.models.build import classifier_config
from mmmeta.weights import load_classifier
from mmmeta.weights.state import parse, to_layout

TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('transformers') is None, reason='needs transformers'
)

# Reads jobs (config, images, weights or None) and writes weights and outputs; without
# images, weights without values.
SCRIPT = """
import sys, torch
from transformers import PoolFormerConfig, PoolFormerForImageClassification
jobs = torch.load(sys.argv[1])
for job in jobs.values():
    if job['images'] is None:
        with torch.device('meta'):
            model = PoolFormerForImageClassification(PoolFormerConfig(**job['config']))
        job['state'] = model.state_dict()
        continue
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


def job(arch: Mapping, images: Tensor | None, state: dict | None = None) -> dict:
    config = dict(
        depths=list(arch['depths']), hidden_sizes=list(arch['dims']), num_labels=1000
    )
    return dict(config=config, images=images, state=state)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def build(arch: Mapping, state: dict | None = None) -> nn.Module:
    config = dict(classifier_config(PoolFormer, arch), _scope_='mmpretrain')
    model = MODELS.build(config).eval()
    if state:
        load_classifier(model, state)
    return model


def test_both_ways(tmp_path):
    """Keys of every size; outputs of s12 and of all depths with few channels."""
    assert len(PoolFormer.archs) == 5
    real = {
        size: dict(depths=arch.depths, dims=arch.dims)
        for size, arch in PoolFormer.archs.items()
    }
    archs = {
        size: arch if size == 's12' else dict(arch, dims=[d // 8 for d in arch['dims']])
        for size, arch in real.items()
    }
    fresh = {size: build(arch) for size, arch in archs.items()}
    images = torch.randn(2, 3, 64, 64)
    jobs = {}
    for size, arch in archs.items():
        state = to_layout(parse(fresh[size].state_dict()), 'transformers')
        jobs[f'keys of {size}'] = job(real[size], None)
        jobs[f'to {size}'] = job(arch, images)
        jobs[f'from {size}'] = job(arch, images, state)
    jobs = reference(jobs, tmp_path / 'jobs.pth')
    for size, arch in archs.items():
        with torch.device('meta'):
            own = mmmeta.create_model(f'poolformer_{size}').state_dict()
        theirs = jobs[f'keys of {size}']['state']
        assert shapes(to_layout(parse(own), 'transformers')) == shapes(theirs)
        with torch.no_grad():
            done = jobs[f'to {size}']
            ours = build(arch, done['state'])
            assert error(ours(images), done['logits']) < TOLERANCE
            dense = PoolFormer(arch, out_norm=False).eval()
            dense.load_state_dict(done['bare'])
            assert error(dense(images)[-1], done['map']) < TOLERANCE
            done = jobs[f'from {size}']
            assert error(fresh[size](images), done['logits']) < TOLERANCE
