"""Every config: a stock process of its library reads it, and it is what is listed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {
    'detection': 'mmdet',
    'segmentation': 'mmseg',
    'classification': 'mmpretrain',
}
CONFIGS = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in p.parts
)
METAFILES = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
MODELS_LISTED = [
    model
    for path in METAFILES
    for model in yaml.safe_load((ROOT / path).read_text())['Models']
]
COCO_1X = [
    f'configs/detection/retinanet_poolformer_{s}.py' for s in ('s12', 's24', 's36')
]

# A process of a host library that nobody told about mmmeta.
STOCK = """
import importlib, json, sys
library, *paths = sys.argv[1:]
importlib.import_module(f'{library}.apis')
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
assert 'mmmeta' not in sys.modules
init_default_scope(library)
for path in paths:
    cfg = Config.fromfile(path)
    assert cfg.default_scope == library, path
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    backbone = model.backbone
    readers = [cfg.model.get(name) for name in ('neck', 'decode_head', 'head')]
    inputs = [r.get('in_channels') or r.get('dim') for r in readers if r]
    print(json.dumps(dict(
        path=path,
        parameters=sum(p.numel() for p in model.parameters()),
        outputs=[backbone.arch.dims[i] for i in backbone.out_indices],
        inputs=next(filter(None, inputs)),
    )))
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the configs build, in a process of each library, elsewhere."""
    found = {}
    for folder, library in LIBRARIES.items():
        paths = [str(ROOT / p) for p in CONFIGS if p.split('/')[1] == folder]
        done = subprocess.run(
            [sys.executable, '-c', STOCK, library, *paths],
            cwd=tmp_path_factory.mktemp(library),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = [line for line in done.stdout.splitlines() if line[:1] == '{']
        for line in map(json.loads, lines):
            found[Path(line['path']).relative_to(ROOT).as_posix()] = line
    return found


def build_model(path: str) -> torch.nn.Module:
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_the_sweep_is_complete(built):
    counts = Counter(path.split('/')[1] for path in CONFIGS)
    assert counts == dict(detection=26, segmentation=31, classification=41)
    assert sorted(m['Config'] for m in MODELS_LISTED) == CONFIGS
    assert sorted(built) == CONFIGS


@pytest.mark.parametrize('path', CONFIGS)
def test_docstring_has_the_command(path):
    text = (ROOT / path).read_text()
    assert path in text.split('"""')[1]


@pytest.mark.parametrize('listed', MODELS_LISTED, ids=lambda m: m['Name'])
def test_it_builds_as_listed(listed, built):
    model = built[listed['Config']]
    assert model['parameters'] == listed['Metadata']['Parameters']
    assert Path(listed['Config']).stem == listed['Name']
    inputs = model['inputs']
    inputs = inputs if isinstance(inputs, list) else [inputs]
    assert inputs == model['outputs']


@pytest.mark.parametrize('path', COCO_1X)
def test_poolformer_coco_1x_recipe(path):
    cfg = Config.fromfile(ROOT / path)
    size = path.split('_')[-1][:-3]
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (size, 0.0)
    assert backbone.init_cfg.checkpoint == f'mmmeta://poolformer_{size}.sail_in1k'
    assert backbone.fork_last3
    neck = cfg.model.neck
    assert (neck.start_level, neck.add_extra_convs) == (1, 'on_input')
    assert (neck.out_channels, neck.num_outs) == (256, 5)
    assert cfg.train_dataloader.batch_size == 2  # on 8 GPUs: 16
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_cfg.max_epochs == 12
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    resize = next(t for t in cfg.train_pipeline if t.type == 'Resize')
    assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)


def test_poolformer_coco_1x_optimizer_and_learning_rates():
    cfg = Config.fromfile(ROOT / COCO_1X[0])
    model = build_model(COCO_1X[0])
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optimizer = wrapper.optimizer
    assert type(optimizer) is torch.optim.AdamW
    # Weight decay on every parameter, as in the reference.
    groups = Counter((g['lr'], g['weight_decay']) for g in optimizer.param_groups)
    assert set(groups) == {(1e-4, 1e-4)}
    counted = sum(len(g['params']) for g in optimizer.param_groups)
    assert counted == len(list(model.parameters()))

    epoch_length = 1000
    schedulers = [
        PARAM_SCHEDULERS.build(dict(s, optimizer=wrapper)) for s in cfg.param_scheduler
    ]
    rates = {}
    for step in range(12 * epoch_length):
        rates[step] = optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    expected = {
        0: 1e-7,  # 0.001 of the rate
        250: 1e-4 * (0.001 + 0.999 * 250 / 499),
        500: 1e-4,
        8 * epoch_length - 1: 1e-4,
        8 * epoch_length: 1e-5,
        11 * epoch_length - 1: 1e-5,
        11 * epoch_length: 1e-6,
    }
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(rate, rel=1e-6), step
