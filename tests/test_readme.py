"""The README's Python examples run as printed."""

import importlib.util
import json
import re
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmeta.registry import TOKEN_MIXERS

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests/data/golden'
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)


def official_weights() -> dict[str, torch.Tensor]:
    """A checkpoint in PoolFormer-S12's published layout, with synthetic weights."""
    spec = importlib.util.spec_from_file_location('fill', GOLDEN / 'fill.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    keys = json.loads((GOLDEN / 'poolformer_s12.json').read_text())['keys']
    return {k: torch.from_numpy(module.fill(k, tuple(s))) for k, s in keys.items()}


def test_the_readme_has_its_four_examples():
    assert len(BLOCKS) == 4


def test_config_example(tmp_path):
    (tmp_path / 'config.py').write_text(BLOCKS[0])
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'PoolFormer'
    maps = model.extract_feat(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [256] * 5


def test_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(official_weights(), 'poolformer_s12.pth.tar')
    names: dict = {}
    exec(BLOCKS[1], names)
    assert [m.shape[1] for m in names['maps']] == [64, 128, 320, 512]
    assert names['logits'].shape == (1, 1000)
    images, plain = torch.randn(1, 3, 224, 224), names['model']
    exec(BLOCKS[3], names)
    assert names['model'] is not plain
    with torch.no_grad():
        expected = plain(images)
        error = (names['model'](images) - expected).abs().max()
    assert error < 1e-4 * expected.std()
    try:
        exec(BLOCKS[2], names)
        backbone = MODELS.build(
            dict(
                type='mmmeta.PoolFormer',
                arch='s12',
                token_mixer=dict(type='MyMixer', k=5),
            )
        )
    finally:
        TOKEN_MIXERS.module_dict.pop('MyMixer', None)
    assert backbone.stages[0].blocks[0].token_mixer.conv.kernel_size == (5, 5)
    assert backbone(torch.randn(1, 3, 64, 64))[0].shape == (1, 64, 16, 16)
