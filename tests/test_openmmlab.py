"""The original OpenMMLab: a reduced suite in an environment of its own.

The wheel with its extra goes into a fresh environment by plain pip, where only the
environment's own programs are on the PATH, and so no compiler.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_config_runs import write_imagenet
from test_packaging import build_wheel, copy_tree

from mmmeta.datasets import make_shapes

pytestmark = pytest.mark.slow

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Two steps of two images, and a test of two.
SMALL = [
    f'{loader}.{option}'
    for loader in LOADERS
    for option in ('batch_size=2', 'num_workers=0', 'persistent_workers=False')
]
# scope: the config, its options, the checkpoint after two steps
CONFIGS = {
    'mmdet': (
        'detection/mask_rcnn_poolformer_s12_shapes.py',
        ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1'],
        'epoch_1.pth',
    ),
    'mmseg': (
        'segmentation/semantic_fpn_poolformer_s12_shapes.py',
        [
            'train_cfg.max_iters=2',
            'train_cfg.val_interval=2',
            'default_hooks.checkpoint.interval=2',
        ],
        'iter_2.pth',
    ),
    'mmpretrain': (
        'classification/poolformer_s12.py',
        ['train_cfg.max_epochs=1'],
        'epoch_1.pth',
    ),
}
METRICS = {
    'mmdet': ['coco/bbox_mAP', 'coco/segm_mAP'],
    'mmseg': ['mIoU'],
    'mmpretrain': ['accuracy/top1'],
}

BACKBONES = """
import sys

import mmcv.ops, mmdet.apis, mmpretrain.apis, mmseg.apis
import torch
from mmengine.registry import MODELS

import mmmeta
from mmmeta.weights import CheckpointError, convert_checkpoint, load_backbone

for arch in ('poolformer_s12', 'identityformer_s12', 'randformer_s12',
             'poolformerv2_s12', 'convformer_s18', 'caformer_s18', 'uniformer_small'):
    backbone = MODELS.build(dict(type='mmmeta.MetaFormer', arch=arch))
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]

torch.save(backbone.state_dict(), 'small.pth')
convert_checkpoint('small.pth', 'small.safetensors', 'mmmeta')
other = MODELS.build(dict(
    type='mmmeta.UniFormer', arch='small',
    init_cfg=dict(type='Pretrained', checkpoint='small.safetensors')))
other.init_weights()
state = other.state_dict()
assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
first = next(iter(state))
del state[first]
try:
    load_backbone(other, state)
except CheckpointError as error:
    assert first in str(error), error
else:
    sys.exit('a checkpoint without ' + first + ' was loaded')
print('backbones and weights are right')
"""


class Environment:
    """A virtual environment without anything of the one that the tests run in."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / 'venv/bin'
        self.home = folder / 'home'  # where commands run
        subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)

    def run(self, command: str, *args: object) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        done = subprocess.run(
            [str(self.bin / command), *map(str, args)],
            cwd=self.home,
            env={**kept, 'PATH': str(self.bin), 'CUDA_VISIBLE_DEVICES': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def installed(self, name: str) -> Path:
        """Return a tool or config that came with the wheel."""
        pattern = f'lib/python*/site-packages/mmmeta/.mim/{name}'
        (path,) = self.bin.parent.glob(pattern)
        return path


@pytest.fixture(scope='module')
def openmmlab(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp('openmmlab')
    try:
        environment = Environment(folder)
        shapes = make_shapes(
            environment.home / 'data/shapes',
            num_train=4,
            num_val=2,
            size=128,
            progress=False,
        )
        write_imagenet(shapes, environment.home / 'data/imagenet')
        wheel = build_wheel(copy_tree(root, folder / 'source'), folder / 'wheel')
        extra = f'{wheel}[openmmlab]'
        environment.run('python', '-m', 'pip', 'install', '--quiet', extra)
        yield environment
    finally:
        shutil.rmtree(folder)  # gigabytes


def test_the_libraries_are_the_original_ones(openmmlab):
    openmmlab.run('python', '-m', 'pip', 'check')
    rows = openmmlab.run('python', '-m', 'pip', 'list', '--format', 'json')
    found = {row['name']: row['version'] for row in json.loads(rows)}
    assert not [name for name in found if name.startswith('onedl')]
    assert {'mmengine', 'mmdet', 'mmsegmentation', 'mmpretrain'} <= set(found)
    assert openmmlab.run('mmmeta', 'doctor').endswith('no problems\n')


def test_backbones_and_weights(openmmlab):
    assert 'are right' in openmmlab.run('python', '-c', BACKBONES)


@pytest.mark.parametrize('scope', CONFIGS)
def test_training_and_prediction(openmmlab, scope):
    path, options, file = CONFIGS[scope]
    config, work = openmmlab.installed(f'configs/{path}'), openmmlab.home / scope
    args = ['--work-dir', work, '--cfg-options', *SMALL, *options]
    openmmlab.run('python', openmmlab.installed('tools/train.py'), config, *args)
    checkpoint = work / file
    assert checkpoint.is_file()
    (log,) = work.glob('*/vis_data/scalars.json')
    scores = json.loads(log.read_text().splitlines()[-1])
    assert all(scores[metric] >= 0 for metric in METRICS[scope])

    image = next((openmmlab.home / 'data/shapes/images/val').iterdir())
    out = openmmlab.home / f'{scope}_predictions'
    args = [config, checkpoint, image, '--out-dir', out]
    if scope == 'mmdet':  # after two steps the scores are low
        args += ['--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0']
    openmmlab.run('mmmeta', 'predict', *args)
    assert len(list((out / 'vis').iterdir())) == 1
    if scope == 'mmdet':
        found = json.loads((out / 'detections.json').read_text())
        assert found and {'bbox', 'segmentation', 'score'} <= set(found[0])
    elif scope == 'mmseg':
        assert len(list((out / 'maps').iterdir())) == 1
    else:
        with (out / 'top5.csv').open(newline='') as rows:
            assert len(list(csv.DictReader(rows))) == 5


def test_a_training_is_resumed(openmmlab):
    """MMEngine 0.10.7 cannot read its own checkpoints; with mmmeta it can.

    It goes on from what the training before has saved.
    """
    train = openmmlab.installed('tools/train.py')
    config = openmmlab.installed(f'configs/{CONFIGS["mmpretrain"][0]}')
    work = openmmlab.home / 'mmpretrain'
    args = ['--work-dir', work, '--resume', '--cfg-options', *SMALL]
    printed = openmmlab.run('python', train, config, *args, 'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1, iter: 2' in printed
    assert (work / 'epoch_2.pth').is_file()
