"""Every config loads in a stock process of its library and matches its listing."""

import json
import re
from collections import Counter
from pathlib import Path

import configs_of
import pytest
import yaml
from warm import WarmPython

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

# A process of a host library that does not import mmmeta. It reads metafiles once, like
# configs_of.py, and skips initializing weights, like undrawn.py.
STOCK = """
import functools, importlib, json, sys
library, *paths = sys.argv[1:]
assert not {'mmdet', 'mmseg', 'mmpretrain', 'mmmeta'} & {*sys.modules}
importlib.import_module(f'{library}.apis')
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
assert 'mmmeta' not in sys.modules
init_default_scope(library)
import mmengine.config.utils as utils
utils.load = functools.cache(utils.load)
import timm.layers.weight_init as weight_init
weight_init._trunc_normal_ = lambda x, *_: x
torch.nn.init.kaiming_uniform_ = lambda x, **_: x
for path in paths:
    cfg = Config.fromfile(path)
    assert cfg.default_scope == library, path
    assert 'backbones' not in cfg, path
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
    """The configs' models, built in a process of each library in another folder."""
    found = {}
    with WarmPython('mmengine.runner', 'mmcv', 'torchvision', 'timm') as python:
        for folder, library in LIBRARIES.items():
            paths = [ROOT / p for p in CONFIGS if p.split('/')[1] == folder]
            cwd = tmp_path_factory.mktemp(library)
            done = python.run(library, *paths, code=STOCK, cwd=cwd)
            assert done.returncode == 0, done.stderr
            lines = [line for line in done.stdout.splitlines() if line[:1] == '{']
            for line in map(json.loads, lines):
                found[Path(line['path']).relative_to(ROOT).as_posix()] = line
    return found


def test_the_sweep_is_complete(built):
    counts = Counter(path.split('/')[1] for path in CONFIGS)
    fewest = dict(detection=27, segmentation=31, classification=41)
    assert all(counts[task] >= number for task, number in fewest.items())
    assert sorted(m['Config'] for m in MODELS_LISTED) == CONFIGS
    assert sorted(built) == CONFIGS


@pytest.mark.parametrize('listed', MODELS_LISTED, ids=lambda m: m['Name'])
def test_it_builds_as_listed(listed, built):
    model = built[listed['Config']]
    assert model['parameters'] == listed['Metadata']['Parameters']
    assert Path(listed['Config']).stem == listed['Name']
    inputs = model['inputs']
    inputs = inputs if isinstance(inputs, list) else [inputs]
    assert inputs == model['outputs']


@pytest.mark.parametrize('listed', MODELS_LISTED, ids=lambda m: m['Name'])
def test_docstring_has_the_command_and_the_listed_results(listed):
    _, folder, file = listed['Config'].split('/')
    text = configs_of.docstring(folder, Path(file).stem)
    assert listed['Config'] in text
    first, _, rest = text.partition('\n')
    result = first.rpartition(': ')[2].partition(' (')[0]
    metrics = {}
    for entry in listed['Results']:
        metrics |= entry['Metrics']
    scales = metrics.pop('mIoU(ms+flip)', None)
    assert re.findall(r'\d+\.\d+', result) == [str(m) for m in metrics.values()]
    if scales:
        assert f'{scales} at ' in rest


def test_no_config_edits_a_list_by_position():
    texts = [p.read_text() for p in (ROOT / 'configs').rglob('*.py')]
    assert len(texts) > len(CONFIGS)
    edits = re.compile(r'^\w+\[\d+\]|\.(insert|append|pop)\(\d', re.M)
    assert not any(edits.search(text) for text in texts)


def test_what_mmsegmentation_reports_is_the_same_everywhere():
    folder = 'segmentation'
    reported = [
        re.search(r'MMSegmentation reports (\S+)', configs_of.docstring(folder, name))
        for name in configs_of.listed(folder)
    ]
    *first, last = [match[1] for match in reported if match]
    assert len(first) == 4
    page = ' '.join((ROOT / 'docs/model_zoo.md').read_text().split())
    assert f'{", ".join(first)} and {last} mIoU' in page
