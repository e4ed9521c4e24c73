"""The zoo's configs reduced in size, not in kind.

A config is reduced in image size, number of steps, blocks per stage and width of the
heads (except the quick ones; test_configs.py builds all at full size) and, in two-stage
detectors, regions of an image; the rest of its model, losses, optimizer, schedules,
samplers, hooks and metric are unchanged.
"""

from dataclasses import asdict
from pathlib import Path

import configs_of
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

QUICK = {
    'configs/detection/retinanet_poolformer_s12.py',
    'configs/segmentation/semantic_fpn_poolformer_s12.py',
    'configs/classification/poolformer_s12.py',
}
STEPS, BATCH, REGIONS = 2, 2, 16
MOST_BLOCKS = (1, 1, 2, 1)
CYCLE = 4  # blocks in the third stage: one cycle of UniFormer's hybrid attention
# Of the layers inside a head, which are 128 to 1024 wide.
WIDTHS = dict(channels=32, conv_out_channels=32, fc_out_channels=64)
# Divisors of the image sides: 1333x800; 512x512; 224x224 and 384x384.
FACTORS = {'mmdet': 12, 'mmseg': 8, 'mmpretrain': 4}


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
