"""Makes the models of written configs tiny, and trains them."""

import os
from pathlib import Path

from mmmeta.cli import main

# Each is a line that a user could add.
DIMS = 'dims = [16, 24, 32, 48]'
COMMON = f"""
{DIMS}
backbone = model.setdefault('backbone', {{}})
backbone['arch'] = dict(_delete_=True, depths=(1, 1, 1, 1), dims=dims)
default_hooks['logger'] = dict(interval=1)
"""
NECK = "model['neck'] = dict(in_channels=dims)\n"
MORE = {
    # Without a box there is no score.
    'retinanet': NECK + "model['test_cfg'] = dict(score_thr=0.0, max_per_img=20)\n",
    'mask_rcnn': NECK
    + """
model['train_cfg'] = dict(rpn_proposal=dict(max_per_img=16),
                          rcnn=dict(sampler=dict(num=8)))
model['test_cfg'] = dict(rpn=dict(max_per_img=16),
                         rcnn=dict(score_thr=0.0, max_per_img=8))
""",
    'semantic_fpn': NECK,
    'classifier': "model['head']['in_channels'] = 48\n",
}


def write(path: Path, work: Path, method: str, *options: str) -> Path:
    """Write a config by `mmmeta finetune --dry-run`, and make its model tiny."""
    given = ['--weights', 'none'] if '--weights' not in options else []
    args = [path, '--work-dir', work, '--method', method, '--dry-run', *given]
    args += ['--workers', '0', '--epochs', '2', '--batch-size', '2', *options]
    assert main(['finetune', *map(os.fspath, args)]) == 0
    config = work / 'config.py'
    config.write_text(config.read_text() + COMMON + MORE[method])
    return config


def train(config: Path, *options: str) -> int:
    return main(['finetune', '--config', str(config), *options])
