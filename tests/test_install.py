"""Installation by pip into fresh environments, without a compiler.

For both host library extras, and for the backbones alone with the oldest PyTorch
that the package supports.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_config_runs import write_imagenet
from test_packaging import build_wheel, copy_tree
from tiny_models import write_model, write_picture
from warm import WarmPython

from mmmeta.cli import main
from mmmeta.datasets import make_shapes

pytestmark = pytest.mark.slow

COMPILERS = ('cc', 'gcc', 'c++', 'g++', 'clang', 'clang++', 'nvcc', 'ninja', 'cmake')
ROOT = Path(__file__).resolve().parents[1]
OURS = ('mmmeta', 'onedl')  # what is to be installed and tested
DEEP = ('s24', 's36', 'm36', 'm48', 'b36')  # sizes with more blocks of the same kinds
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Two steps with two images, and a test on two.
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


# Predictions of several libraries; one process saves the time of imports.
PREDICT = """
import json, sys
from mmmeta.cli import main
sys.exit(any([main(['predict', *args]) for args in json.loads(sys.argv[1])]))
"""


# The page of an exported file.
DEMO = """
import sys
from mmmeta.commands.demo.engine import Engine
from mmmeta.commands.demo.found import make_model
from mmmeta.commands.demo.page import Page

model = make_model(sys.argv[1])
page = Page(Engine(), [model], list, [], True)
page.open()
status, picture, _, summary, _ = page.run(model.key, {'path': sys.argv[2]}, 0)
print(status, picture, summary)
"""


class Environment:
    """A virtual environment isolated from the one that runs the tests.

    Its PATH has its own programs and, instead of compilers, traps that fail and record
    if they are called for more than their version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / 'venv/bin'
        self.home = folder / 'home'  # where commands run
        self.home.mkdir()
        self.compiled = folder / 'a-compiler-was-called'
        command = [sys.executable, '-m', 'venv', '--without-pip', folder / 'venv']
        subprocess.run(command, check=True)
        (folder / 'traps').mkdir()
        (folder / 'traps/touch').symlink_to(shutil.which('touch'))  # a test calls it
        for name in COMPILERS:
            trap = folder / 'traps' / name
            note = f'echo "$0 $*" >> "{self.compiled}"'
            trap.write_text(f'#!/bin/sh\n[ "$*" = --version ] || {note}\nexit 1\n')
            trap.chmod(0o755)

    @property
    def variables(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        path = f'{self.bin}:{self.folder / "traps"}'
        kept |= {'PATH': path, 'CUDA_VISIBLE_DEVICES': '', 'CC': 'cc'}
        return kept | {'PIP_NO_COMPILE': '1'}  # most bytecode would never be used

    def call(self, command: str, *args: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which(command, path=self.variables['PATH']), *map(str, args)],
            cwd=self.home,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )

    def run(self, command: str, *args: object) -> str:
        done = self.call(command, *args)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def warm_python(self) -> WarmPython:
        """For all calls of Python but the first, most of whose time is imports."""
        modules = ('mmcv.ops', 'mmdet.apis', 'mmseg.apis', 'mmpretrain.apis')
        return WarmPython(*modules, python=self.bin / 'python', base=self.variables)

    def installed(self, name: str) -> Path:
        """Return a file that came with a package."""
        (path,) = self.bin.parent.glob(f'lib/python*/site-packages/{name}')
        return path


@pytest.fixture(scope='module')
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    return build_wheel(copy_tree(root, folder / 'source'), folder / 'wheel')


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    yield Environment(tmp_path)
    # Thousands of files; neither we nor pytest wait for their removal.
    removed = tmp_path.rename(tmp_path.with_name(f'{tmp_path.name}-removed'))
    subprocess.Popen(['rm', '-rf', removed], start_new_session=True)


def borrow(environment: Environment, *requirements: str) -> None:
    """Make packages of the environment of the tests visible in another.

    They are those that the requirements need, but for the host libraries and mmmeta.
    pip sees that they are installed, as it would after `pip install torch`, and could
    not change them: they are on a path of their own, behind the environment's. This
    saves unpacking gigabytes, and compiling them to bytecode again.
    """
    folder = environment.folder / 'borrowed'
    folder.mkdir()
    (site,) = environment.bin.parent.glob('lib/python*/site-packages')
    (site / 'borrowed.pth').write_text(f'{folder}\n')
    seen, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        needed = waiting.pop()
        asked = canonicalize_name(needed.name), frozenset(needed.extras)
        if asked in seen:
            continue
        seen.add(asked)
        try:
            package = distribution(needed.name)
        except PackageNotFoundError:  # see requirements/overrides.txt
            continue
        for text in package.requires or ():
            other = Requirement(text)
            extras = [{'extra': extra} for extra in ('', *needed.extras)]
            if not other.marker or any(map(other.marker.evaluate, extras)):
                waiting.append(other)
        if asked[0].startswith(OURS):
            continue
        for name in {file.parts[0] for file in package.files} - {'..', '__pycache__'}:
            if not (folder / name).exists():  # several packages have a folder `nvidia`
                (folder / name).symlink_to(package.locate_file(name))


def has_stand_in(environment: Environment) -> bool:
    report = json.loads(environment.run('mmmeta', 'doctor', '--json'))
    assert report['problems'] == 0, report
    (found,) = (f for f in report['findings'] if f['subject'] == 'operators')
    return "torchvision's" in found['text']


def test_traps_are_remembered(tmp_path):
    environment = Environment(tmp_path)
    assert environment.call('g++', '--version').returncode == 1
    assert not environment.compiled.exists()
    assert environment.call('g++', '-c', 'x.cpp').returncode == 1
    assert environment.compiled.read_text().endswith('g++ -c x.cpp\n')


def test_the_forks_by_plain_pip(wheel, environment):
    """Default flags but for bytecode; then the main job, and a stock tool and model."""
    borrow(environment, 'pip', 'mmmeta-backbones[onedl]')
    environment.run('python', '-m', 'pip', 'install', '--quiet', f'{wheel}[onedl]')
    assert not environment.compiled.exists(), environment.compiled.read_text()
    assert has_stand_in(environment)
    data = environment.home / 'data/shapes'
    counts = ('--num-train', 4, '--num-val', 2, '--size', 128)
    environment.run('python', '-m', 'mmmeta.datasets', '--root', data, *counts)

    mim = environment.installed('mmmeta/.mim')
    config = mim / 'configs/detection/mask_rcnn_poolformer_s12_shapes.py'
    args = [mim / 'tools/train.py', config, *train_options('own', CONFIGS['mmdet'][1])]
    with environment.warm_python() as python:
        warm(python, environment, *args)
        models = {'mmdet': (config, environment.home / 'own/epoch_1.pth')}
        predict(python, environment, models)

    mim = environment.installed('mmdet/.mim')
    config = mim / 'configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    names = ('circle', 'square', 'triangle', 'star', 'ring', 'cross')
    options = [
        *('train_cfg.max_epochs=1', 'model.backbone.init_cfg=None'),
        *(f'{loader}.dataset.data_root={data}/' for loader in LOADERS),
        *(f'{loader}.dataset.metainfo.classes={names}' for loader in LOADERS),
        *(f'{loader}.dataset.pipeline.1.scale=(160,160)' for loader in LOADERS[1:]),
        'train_dataloader.dataset.pipeline.2.scale=(160,160)',
    ]
    for loader, part in zip(LOADERS, ('train', 'val', 'val'), strict=True):
        ann_file = f'annotations/instances_{part}.json'
        options.append(f'{loader}.dataset.ann_file={ann_file}')
        options.append(f'{loader}.dataset.data_prefix.img=images/{part}/')
        if part == 'val':
            evaluator = loader.replace('dataloader', 'evaluator')
            options.append(f'{evaluator}.ann_file={data / ann_file}')
    args = [mim / 'tools/train.py', config, *train_options('stock', options)]
    environment.run('python', *args)  # a process of its own, as users start it
    assert (environment.home / 'stock/epoch_1.pth').is_file()
    assert not environment.compiled.exists(), environment.compiled.read_text()


def train_options(work: str, options: list[str]) -> list[str]:
    return ['--work-dir', work, '--cfg-options', *SMALL, *options]


def warm(python: WarmPython, environment: Environment, *args: object, **kw: str) -> str:
    done = python.run(*args, cwd=environment.home, **kw)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def predict(
    python: WarmPython, environment: Environment, models: dict[str, tuple[Path, Path]]
) -> None:
    """Run prediction on one image with each model and check the output files."""
    image = next((environment.home / 'data/shapes/images/val').iterdir())
    calls = []
    for scope, (config, checkpoint) in models.items():
        out = environment.home / f'{scope}_predictions'
        calls.append([config, checkpoint, image, '--out-dir', out])
        if scope == 'mmdet':  # scores are low after two steps
            calls[-1] += ['--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0']
    warm(python, environment, json.dumps(calls, default=str), code=PREDICT)
    for scope in models:
        out = environment.home / f'{scope}_predictions'
        assert len(list((out / 'vis').iterdir())) == 1
        if scope == 'mmdet':
            found = json.loads((out / 'detections.json').read_text())
            assert found and {'bbox', 'segmentation', 'score'} <= set(found[0])
        elif scope == 'mmseg':
            assert len(list((out / 'maps').iterdir())) == 1
        else:
            with (out / 'top5.csv').open(newline='') as rows:
                assert len(list(csv.DictReader(rows))) == 5


def test_the_original_openmmlab(wheel, environment):
    """A reduced suite: backbones, weights, training in each library, predictions."""
    borrow(environment, 'pip', 'mmmeta-backbones[backbones]')
    environment.run('python', '-m', 'pip', 'install', '--quiet', f'{wheel}[openmmlab]')
    assert not environment.compiled.exists(), environment.compiled.read_text()
    environment.run('python', '-m', 'pip', 'check')
    rows = environment.run('python', '-m', 'pip', 'list', '--format', 'json')
    found = {row['name']: row['version'] for row in json.loads(rows)}
    assert not [name for name in found if name.startswith('onedl')]
    assert {'mmengine', 'mmdet', 'mmsegmentation', 'mmpretrain'} <= set(found)
    assert has_stand_in(environment)
    shapes = make_shapes(
        environment.home / 'data/shapes',
        num_train=4,
        num_val=2,
        size=128,
        progress=False,
    )
    write_imagenet(shapes, environment.home / 'data/imagenet')
    mim, models = environment.installed('mmmeta/.mim'), {}
    tool = mim / 'tools/train.py'
    with environment.warm_python() as python:
        assert 'are right' in warm(python, environment, code=BACKBONES)
        for scope, (path, options, file) in CONFIGS.items():
            config = mim / 'configs' / path
            warm(python, environment, tool, config, *train_options(scope, options))
            (log,) = (environment.home / scope).glob('*/vis_data/scalars.json')
            scores = json.loads(log.read_text().splitlines()[-1])
            assert all(scores[metric] >= 0 for metric in METRICS[scope])
            models[scope] = config, environment.home / scope / file
        predict(python, environment, models)

        # On its own, MMEngine 0.10.7 cannot read its own checkpoints.
        again = train_options(scope, ['train_cfg.max_epochs=2', 'resume=True'])
        printed = warm(python, environment, tool, config, *again)
    assert 'resumed epoch: 1, iter: 2' in printed
    assert (environment.home / scope / 'epoch_2.pth').is_file()


def test_exported_models_without_torch(wheel, environment):
    """Only the extra `runtime`; then `demo`, too."""
    model = write_model(environment.folder, 'detection')
    image = write_picture(environment.home / 'x.png')
    file = environment.home / 'model.onnx'
    assert main(['export', *model, '-o', str(file)]) == 0
    install = [Path(sys.executable).with_name('uv'), 'pip', 'install', '--quiet']
    python = environment.bin / 'python'
    subprocess.run([*install, '--python', python, f'{wheel}[runtime]'], check=True)
    listed = environment.bin.parent.glob('lib/python*/site-packages/*')
    names = {path.name for path in listed}
    assert 'onnxruntime' in names and not {'torch', 'mmengine', 'cv2'} & names
    environment.run('mmmeta', 'predict', file, image)
    folder = environment.home / 'predictions'
    assert len(json.loads((folder / 'detections.json').read_text())) == 8
    assert (folder / 'vis/x.jpg').is_file()
    assert 'convformer_s18' in environment.run('mmmeta', 'list')
    done = environment.call('mmmeta', 'predict', *model, image)
    assert (done.returncode, done.stdout.count('\n')) == (1, 1), done.stdout
    assert "pip install 'mmmeta-backbones[onedl]'" in done.stdout
    borrow(environment, 'mmmeta-backbones[demo]')
    shown = environment.run('python', '-c', DEMO, file, image)
    assert 'Model: ' in shown and '<strong>8 objects</strong>' in shown
    done = environment.call('mmmeta', 'demo')  # perhaps the usual port is taken
    lines = [x for x in done.stdout.splitlines() if not x.startswith('port 7860')]
    assert (done.returncode, len(lines)) == (1, 1), done.stdout
    assert "pip install 'mmmeta-backbones[onedl]'" in done.stdout


def test_backbones_beside_the_oldest_torch(wheel, environment):
    """Only backbones and weights; the bound is that of pyproject.toml."""
    text = (ROOT / 'pyproject.toml').read_text()
    oldest = re.search(r"'torch>=([\d.]+)'", text)[1]
    others = ('onedl-mmengine', 'opencv-python-headless', 'pytest')
    # With uv, which links from its cache what pip would unpack again.
    install = [Path(sys.executable).with_name('uv'), 'pip', 'install', '--quiet']
    requirements = [f'{wheel}[backbones]', f'torch=={oldest}.0', *others]
    python = environment.bin / 'python'
    subprocess.run([*install, '--python', python, *requirements], check=True)
    found = environment.installed('torch/version.py').read_text()
    assert re.search(rf"^__version__ = '{re.escape(oldest)}\.0\b", found, re.M), found
    files = ('models/test_metaformer.py', 'weights/test_reading.py')
    printed = environment.run(
        *('python', '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
        *('--rootdir', ROOT, '-c', ROOT / 'pyproject.toml'),
        *('-k', f'not ({" or ".join(DEEP)})'),
        *(ROOT / 'tests' / file for file in files),
    )
    assert int(re.search(r'(\d+) passed', printed)[1]) > 150
