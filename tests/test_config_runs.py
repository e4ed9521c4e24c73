"""Every kind of config runs: two training steps, a checkpoint, a test with its metric.

Of configs that differ in numbers alone once they are reduced, such as those of several
sizes of a family, the smallest runs: the others would run the same code.
What is reduced is in reduced_configs.py. The weights are random.
"""

import functools
import gc
import json
import math
from pathlib import Path

import mmengine.runner.runner
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.utils import ManagerMixin
from reduced_configs import BATCH, QUICK, STEPS, reduced, without_numbers
from undrawn import nothing_drawn

from mmmeta.datasets import make_shapes
from mmmeta.hosts.config import check_data
from mmmeta.hosts.launch import build_runner

ROOT = Path(__file__).resolve().parent.parent
METAFILES = [
    ROOT / f'configs/{kind}/metafile.yml'
    for kind in ('detection', 'segmentation', 'classification')
]
LISTED = [m for f in METAFILES for m in yaml.safe_load(f.read_text())['Models']]
PARAMETERS = {m['Config']: m['Metadata']['Parameters'] for m in LISTED}
TEST_IMAGES = 2
CONFIGS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / 'configs').glob('*/*.py'))
    if path.parent.name != '_base_'
]
# It queries versions of compilers and libraries, which takes a second.
collect_env = functools.cache(mmengine.runner.runner.collect_env)


def test_the_sweep_is_complete():
    assert len(CONFIGS) == len(LISTED) >= 98
    assert set(CONFIGS) == set(PARAMETERS) >= QUICK
    ordered = [param.values[0] for param in SWEEP]
    assert sorted(ordered) == CONFIGS


# -- the data: a folder `data` as the configs expect it ---------------------------


def write_coco(shapes: Path, root: Path) -> None:
    """COCO's files and 80 categories; the shapes' are the first six."""
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / f'{split}2017').symlink_to(shapes / 'images' / split)
        file = f'annotations/instances_{split}'
        content = json.loads((shapes / f'{file}.json').read_text())
        content['categories'] = [dict(id=k, name=n) for k, n in enumerate(names, 1)]
        (root / f'{file}2017.json').write_text(json.dumps(content))


def write_ade20k(shapes: Path, root: Path) -> None:
    for ours, theirs in (('images', 'images'), ('semantic', 'annotations')):
        (root / theirs).mkdir(parents=True)
        (root / theirs / 'training').symlink_to(shapes / ours / 'train')
        (root / theirs / 'validation').symlink_to(shapes / ours / 'val')


def write_imagenet(shapes: Path, root: Path) -> None:
    """ImageNet's folders; the image lists need only six of the 1000 classes."""
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split).symlink_to(shapes / 'classes' / split)
        lines = [
            f'{image.parent.name}/{image.name} {label}\n'
            for label, folder in enumerate(sorted((root / split).iterdir()))
            for image in folder.iterdir()
        ]
        (root / f'meta/{split}.txt').write_text(''.join(lines))


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder in which the configs' relative paths lead to the embedded data."""
    home = tmp_path_factory.mktemp('config_runs')
    shapes = make_shapes(
        home / 'data/shapes',
        num_train=STEPS * BATCH,
        num_val=TEST_IMAGES,
        size=128,
        progress=False,
    )
    write_coco(shapes, home / 'data/coco')
    write_ade20k(shapes, home / 'data/ade/ADEChallengeData2016')
    write_imagenet(shapes, home / 'data/imagenet')
    yield home
    gc.unfreeze()


# -- the runs ---------------------------------------------------------------------


class Record(Hook):
    """Records the initial parameters and each step's losses."""

    def before_train(self, runner):
        named = runner.model.named_parameters()
        self.start = {name: p.detach().clone() for name, p in named}
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: value.item() for name, value in outputs.items()})


class SameWeights(Hook):
    """Checks that the saved weights, including averages, are tested."""

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        checkpoint = torch.load(runner._load_from, mmap=True, weights_only=False)
        saved, loaded = checkpoint['state_dict'], runner.model.state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)


@pytest.fixture
def make_runner(home, tmp_path, monkeypatch):
    """A function that builds a config's runner, with cleanup afterwards."""
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', collect_env)
    monkeypatch.chdir(home)
    # Each data set triggers garbage collection; exclude earlier objects from it.
    gc.freeze()
    names = []

    def make(cfg: Config, name: str, hook: Hook):
        gc.collect()  # runners, loops and hooks refer to each other
        # MMEngine caches loggers, visualizers etc. by name per process.
        names.append(f'{tmp_path.name}_{name}')
        cfg.experiment_name = cfg.visualizer.name = names[-1]
        cfg.work_dir = str(tmp_path / name)
        runner = build_runner(cfg)
        runner.register_hook(hook)
        return runner

    yield make
    forget(ManagerMixin, names)
    for checkpoint in tmp_path.rglob('*.pth'):
        checkpoint.unlink()
    gc.collect()


def forget(manager: type[ManagerMixin], names: list[str]) -> None:
    for name in names:
        instance = manager._instance_dict.pop(name, None)
        for handler in getattr(instance, 'handlers', []):
            handler.close()
    for child in manager.__subclasses__():
        forget(child, names)


def check_training(runner, record: Record) -> None:
    assert runner.iter == len(record.losses) == STEPS
    for losses in record.losses:
        assert losses['loss'] > 0
        assert all(math.isfinite(value) for value in losses.values()), losses
    state = runner.optim_wrapper.optimizer.state
    parameters = dict(runner.model.named_parameters())
    trained = {name for name, p in parameters.items() if p.requires_grad}
    # The optimizer has state for parameters that got a gradient.
    assert {name for name, p in parameters.items() if p in state} == trained
    changed = {
        name for name, p in parameters.items() if not torch.equal(p, record.start[name])
    }
    assert changed <= trained
    # Not all: some in blocks skipped by drop path have no weight decay, and the
    # first warm-up steps are below the rounding of a norm's ones.
    assert len(changed) > 0.75 * len(trained)


def check_metrics(cfg: Config, metrics: dict[str, float]) -> None:
    if cfg.default_scope == 'mmdet':
        kinds = ['bbox', 'segm'] if 'roi_head' in cfg.model else ['bbox']
        names, most = [f'coco/{kind}_mAP' for kind in kinds], 1
    else:
        names, most = ['mIoU' if cfg.default_scope == 'mmseg' else 'accuracy/top1'], 100
    for name in names:
        assert 0 <= metrics[name] <= most, name


SWEEP = [
    pytest.param(path, id=path, marks=() if path in QUICK else pytest.mark.slow)
    for path in sorted(CONFIGS, key=lambda path: PARAMETERS.get(path, 0))
]


@pytest.fixture(scope='module')
def ran() -> set[str]:
    """The kinds of configs that ran without an error."""
    return set()


@pytest.mark.parametrize('path', SWEEP)
def test_config_runs(path, make_runner, ran):
    cfg = reduced(path)
    check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    kind = repr(without_numbers(cfg.to_dict()))
    if kind in ran:
        return
    record = Record()
    runner = make_runner(cfg, 'train', record)
    runner.train()
    check_training(runner, record)
    (checkpoint,) = Path(runner.work_dir).glob('*.pth')
    del runner, record  # free their memory

    cfg.load_from = str(checkpoint)
    with nothing_drawn():
        runner = make_runner(cfg, 'test', SameWeights())
    check_metrics(cfg, runner.test())
    ran.add(kind)
