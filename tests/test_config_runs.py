"""Every kind of config runs: two training steps, a checkpoint, a test with its metric.

Of configs that differ in numbers alone once they are reduced, such as those of several
sizes of a family, the smallest runs: the others would run the same code.
A config is reduced in data, image size, number of steps, blocks per stage and width of
the heads (except the quick ones; test_configs.py builds all at full size) and, in
two-stage detectors, regions of an image; the rest of its model, losses, optimizer,
schedules, samplers, hooks and metric are unchanged. The weights are random.
"""

import functools
import gc
import json
import math
from dataclasses import asdict
from pathlib import Path

import configs_of
import mmengine.runner.runner
import pytest
import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.utils import ManagerMixin
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
CONFIGS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / 'configs').glob('*/*.py'))
    if path.parent.name != '_base_'
]
QUICK = {
    'configs/detection/retinanet_poolformer_s12.py',
    'configs/segmentation/semantic_fpn_poolformer_s12.py',
    'configs/classification/poolformer_s12.py',
}
STEPS, BATCH, TEST_IMAGES, REGIONS = 2, 2, 2, 16
MOST_BLOCKS = (1, 1, 2, 1)
CYCLE = 4  # blocks in the third stage: one cycle of UniFormer's hybrid attention
# Of the layers inside a head, which are 128 to 1024 wide.
WIDTHS = dict(channels=32, conv_out_channels=32, fc_out_channels=64)
# Divisors of the image sides: 1333x800; 512x512; 224x224 and 384x384.
FACTORS = {'mmdet': 12, 'mmseg': 8, 'mmpretrain': 4}

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


# -- the reduction ----------------------------------------------------------------


def divided(value, factor: int):
    """Divide pixels, or nested tuples and lists of them."""
    if isinstance(value, int):
        return value // factor
    return type(value)(divided(v, factor) for v in value)


def shrink_pipeline(steps: list, factor: int) -> None:
    """Divide the sizes in a pipeline and in those nested in it."""
    for step in steps:
        if isinstance(step, list):
            shrink_pipeline(step, factor)
            continue
        for key in {'scale', 'scales', 'crop_size'} & set(step):
            step[key] = divided(step[key], factor)
        shrink_pipeline(step.get('transforms', []), factor)


def shrink_backbone(backbone: ConfigDict) -> None:
    row = asdict(MODELS.get(backbone.type).archs[backbone.arch])
    first, second, third, fourth = map(min, row['depths'], MOST_BLOCKS)
    if backbone.get('attention') == 'hybrid':
        third = CYCLE
    row['depths'] = [first, second, third, fourth]
    backbone.arch = row


def shrink_heads(part: ConfigDict | list) -> None:
    """Make the heads narrow, wherever they are in a model's config."""
    if isinstance(part, ConfigDict):
        for name in WIDTHS.keys() & part.keys():
            part[name] = WIDTHS[name]
    for value in part.values() if isinstance(part, ConfigDict) else part:
        if isinstance(value, ConfigDict | list):
            shrink_heads(value)


def shrink_model(model: ConfigDict, factor: int) -> None:
    model.backbone.init_cfg = None  # no downloads
    if 'size' in model.data_preprocessor:
        model.data_preprocessor.size = divided(model.data_preprocessor.size, factor)
    test_cfg = model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        # Smaller than the images, so that there is more than one window.
        test_cfg.update(crop_size=(48, 48), stride=(32, 32))
    # After two steps no score reaches the threshold, and without a single box
    # MMDetection computes no metric.
    for part in (test_cfg, test_cfg.get('rcnn', {})):
        if 'score_thr' in part:
            part.score_thr = 0.0
    if 'roi_head' in model:
        # With 512 regions per image a convolutional box head takes a minute.
        rcnn = model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = REGIONS
        test_cfg.rpn.max_per_img = test_cfg.rcnn.max_per_img = REGIONS


def reduced(path: str) -> Config:
    """Return the config at `path` for STEPS steps on the few small images."""
    _, folder, file = path.split('/')
    cfg = configs_of.load(folder, Path(file).stem)
    # Its text is logged and written nine times; formatting it takes seconds.
    cfg = Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False)
    factor = 2 if path.endswith('_shapes.py') else FACTORS[cfg.default_scope]
    shrink_model(cfg.model, factor)
    if path not in QUICK:
        shrink_backbone(cfg.model.backbone)
        shrink_heads(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = min(loader.batch_size, BATCH)
        shrink_pipeline(loader.dataset.pipeline, factor)
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 1  # the images give STEPS batches
    else:
        cfg.train_cfg.max_iters = STEPS
    cfg.train_cfg.val_begin = STEPS + 1  # the following test does the same
    # The optimizer's state is two thirds of the file.
    cfg.default_hooks.checkpoint.save_optimizer = path in QUICK
    cfg.load_from = None  # of the fine-tunes at 384x384: no downloads
    cfg.randomness = dict(seed=0)
    return cfg


def without_numbers(part):
    """Return part of a config with all numbers alike: equal for those of a kind."""
    if isinstance(part, dict):
        return {key: without_numbers(part[key]) for key in sorted(part)}
    if isinstance(part, list | tuple):
        return [*map(without_numbers, part)]
    return 0 if type(part) in (int, float) else part


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
