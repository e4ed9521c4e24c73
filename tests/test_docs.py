"""The guides' examples run as printed; the tables are up to date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
BASE = 'configs/detection/retinanet_poolformer_s12_shapes.py'


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """A folder with the guide's three files; the config is based on a small one."""
    folder = tmp_path_factory.mktemp('mixers')
    text = (ROOT / 'docs/token_mixers.md').read_text()
    blocks = re.findall(r'```python title=(\S+)\n(.*?)```', text, re.S)
    assert [name for name, _ in blocks] == [
        'my_mixers.py',
        'my_config.py',
        'my_export.py',
    ]
    for name, code in blocks:
        (folder / name).write_text(code)
    (folder / BASE).parent.mkdir(parents=True)
    dims = [32, 64, 64, 64]
    arch = dict(_delete_=True, depths=(1, 1, 1, 1), dims=dims)
    (folder / BASE).write_text(
        f'_base_ = {str(ROOT / BASE)!r}\n'
        f'model = dict(backbone=dict(arch={arch}), neck=dict(in_channels={dims}))\n'
    )
    return folder


@pytest.fixture
def python(warm_python):
    """A function that runs a script in a folder and returns what it printed."""

    def run(folder: Path, *args: object) -> str:
        done = warm_python.run(*args, cwd=folder, env=dict(PYTHONPATH='.'))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_a_mixer_of_the_users_trains(files, shapes, python):
    data = f'{shapes}/'
    ann = f'{data}annotations/instances_val.json'
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    options += [f'{n}_dataloader.dataset.data_root={data}' for n in ('train', 'val')]
    options += [f'val_evaluator.ann_file={ann}', 'default_hooks.logger.interval=1']
    printed = python(
        files, ROOT / 'tools/train.py', 'my_config.py', '--cfg-options', *options
    )
    losses = [float(loss) for loss in re.findall(r' loss: (\S+)', printed)]
    assert len(losses) == 6
    assert all(0 < loss < 10 for loss in losses)

    saved = files / 'work_dirs/my_config/epoch_1.pth'
    weights = torch.load(saved, weights_only=False)['state_dict']
    cfg = Config.fromfile(files / BASE)
    assert 'backbone.stages.2.blocks.0.token_mixer.gate.weight' in weights
    assert 'backbone.stages.3.blocks.0.token_mixer.qkv.weight' in weights
    # As the guide says, they do not load if the mixers have different parameters.
    with pytest.raises(Exception, match=r'token_mixer'):
        load_checkpoint(MODELS.build(dict(cfg.model, _scope_='mmdet')), str(saved))


@pytest.mark.slow
def test_a_mixer_of_the_users_is_exported(files, python):
    python(files, 'my_export.py')
    program = torch.export.load(files / 'backbone.pt2').module()
    session = onnxruntime.InferenceSession(files / 'backbone.onnx')
    for shape in ((2, 3, 64, 96), (1, 3, 75, 101)):
        images = torch.randn(shape)
        expected = program(images)
        assert len(expected) == 4
        found = session.run(None, {'images': images.numpy()})
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(a), b.detach(), atol=1e-4, rtol=1e-4
            )


def test_the_model_zoo_is_up_to_date(python):
    printed = python(ROOT, 'tools/model_zoo.py', '--check')
    assert printed == 'everything is up to date\n'


def test_a_stale_table_is_seen(tmp_path):
    for name in ('configs', 'docs', 'tools', 'README.md', 'model-index.yml'):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(
            ROOT / name, tmp_path / name
        )
    metafile = tmp_path / 'configs/detection/metafile.yml'
    metafile.write_text(metafile.read_text().replace('box AP: 36.2', 'box AP: 36.3'))
    done = subprocess.run(
        [sys.executable, 'tools/model_zoo.py', '--check'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        'error: docs/model_zoo.md and README.md differ: run tools/model_zoo.py\n'
    )


def test_what_is_promised_is_tested():
    """Every test that the page names is there, and every point names one."""
    text = (ROOT / 'docs/reliability.md').read_text()
    named = re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', text)
    assert len(named) > 30
    for path, name in named:
        assert re.search(rf'\bdef {name}\(', (ROOT / path).read_text()), (path, name)
    for point in re.findall(r'^- .*(?:\n  .*)*', text, re.M):
        assert '::' in point, f'no test is named for: {point}'
