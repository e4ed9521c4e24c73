"""From a data set to a trained model."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmmeta.data import DataSet, read_data
from mmmeta.errors import UserError, printable
from mmmeta.tuning.files import split, write_annotations
from mmmeta.tuning.plan import Plan, make_plan
from mmmeta.tuning.text import config_text, write_config

MOST_PROBLEMS = 8  # that an error lists
CONFIG = 'config.py'


def finetune(
    path: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    method: str | None = None,
    backbone: str | None = None,
    weights: str = 'zoo',
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    frozen_stages: int = -1,
    seed: int = 0,
    workers: int | None = None,
    dry_run: bool = False,
) -> Path:
    """Train a model on a data set of one's own.

    It checks the data, writes an ordinary config, `WORK_DIR/config.py`, and trains it.
    Without a validation split one in five images is held out.

    Args:
        path: A folder with COCO, YOLO, Pascal VOC, LabelMe, maps or class folders; a
            COCO file or a data.yaml.
        work_dir: Where the config, logs and checkpoints go. Default:
            work_dirs/NAME-OF-PATH_METHOD.
        method: retinanet, mask_rcnn, cascade_mask_rcnn, semantic_fpn, upernet or
            classifier. Default: by the annotations; boxes: retinanet, boxes with
            masks: mask_rcnn, maps: semantic_fpn, class folders: classifier.
        backbone: A name of `mmmeta.list_models()`. Default: poolformer_s12, or that of
            `weights`.
        weights: 'zoo' for published weights of the backbone, 'none' for random ones,
            or a checkpoint of a whole model: a file, a URL or a published name. What
            depends on the number of classes is left out of it. Default: 'zoo'.
        epochs: Passes over the training images. Default: as many as show about 12,000
            images, 12 to 100; training stops early if the score does not improve.
        batch_size: Images per process. Default: 4 for detectors, 8 or 4 for segmentors,
            32 for classifiers; fewer if there are few images.
        image_size: Longer and shorter side in pixels, or one number for both. Default:
            that of the published models, or the images' if they are smaller.
        frozen_stages: Stages of the backbone that are not trained, 0 to 4; 0 is the
            stem. Default: -1, none.
        seed: Random seed, also of the held-out images. Default: 0.
        workers: Processes that read images. Default: one per core, at most 4.
        dry_run: Only write the config. Default: False.

    Returns:
        The work dir.

    Raises:
        UserError: The data have errors, the method does not suit them, or the work dir
            has another run.
        CheckpointError: Weights cannot be obtained or do not fit.
    """
    data = read_data(path)
    problems = [p.text for p in data.problems if p.severity == 'error']
    if problems:
        more = len(problems) - MOST_PROBLEMS
        listed = problems[:MOST_PROBLEMS] + ([f'{more} more'] if more > 0 else [])
        raise UserError(
            f'{path} has errors, and nothing was trained: {"; ".join(listed)}. '
            f'`mmmeta data {path}` shows them'
        )
    parts = split(data, seed)
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    plan = make_plan(
        data,
        len(parts['train']),
        method=method,
        backbone=backbone,
        weights=weights,
        epochs=epochs,
        batch_size=batch_size,
        image_size=sides and (max(sides), min(sides)),
        frozen_stages=frozen_stages,
        seed=seed,
        workers=workers,
    )
    name = Path(path).resolve()
    name = name.parent if name.is_file() else name
    folder = Path(work_dir or Path('work_dirs', f'{name.name}_{plan.method}'))
    config = prepare(plan, data, parts, folder)
    if not dry_run:
        train(config, folder, plan.metric)
    return folder


def prepare(plan: Plan, data: DataSet, parts: dict[str, Any], folder: Path) -> Path:
    """Write the annotations and the config; return the config's path.

    Raises:
        UserError: The folder has checkpoints of another run.
    """
    from mmmeta.hosts.config import load_config

    config = folder / CONFIG
    if any(folder.glob('*.pth')):
        raise UserError(
            f'{folder} has checkpoints of another run. To go on with it: python '
            f'tools/train.py {config} --work-dir {folder} --resume; to begin anew: '
            'another --work-dir'
        )
    folder.mkdir(parents=True, exist_ok=True)
    base = load_config(f'mmmeta::{plan.base}')
    files = write_annotations(data, parts, folder.resolve() / 'data')
    text = config_text(
        plan, base, files, _palette(data), _title(plan, data), _commands(folder)
    )
    write_config(config, text)
    load_config(str(config))  # raises for what cannot be read
    return config


def _palette(data: DataSet) -> Sequence[Sequence[int]]:
    from mmmeta.data.picture import colors_of

    return [tuple(map(int, color)) for color in colors_of(data)]


def _title(plan: Plan, data: DataSet) -> str:
    names = {
        'retinanet': 'RetinaNet',
        'mask_rcnn': 'Mask R-CNN',
        'cascade_mask_rcnn': 'Cascade Mask R-CNN',
        'semantic_fpn': 'Semantic FPN',
        'upernet': 'UPerNet',
        'classifier': 'Classifier',
    }
    size = plan.backbone.partition('_')[2].upper()
    where = printable(data.root.name).replace('"', '').replace('\\', '/')
    return f'{names[plan.method]}, {plan.type}-{size}, on {where}.'


def _commands(folder: Path) -> list[str]:
    config = folder / CONFIG
    return [
        'Written by `mmmeta finetune`; change what you like, and train again:',
        f'    mmmeta finetune --config {config}',
        f'or  python tools/train.py {config} --work-dir {folder}',
    ]


def train(config: Path, folder: Path, metric: str | None = None) -> None:
    """Train a config with a progress bar, and print how to use the result.

    Args:
        config: As `prepare` writes it.
        folder: The work dir.
        metric: The metric of the best checkpoint. Default: the config's.
    """
    from mmmeta.hosts import launch
    from mmmeta.hosts.config import check_data, load_config
    from mmmeta.hosts.hooks import ProgressHook
    from mmmeta.hosts.predictor import hush

    cfg = load_config(str(config))
    cfg.work_dir = str(folder)
    cfg.launcher = 'none'
    metric = metric or cfg.default_hooks.checkpoint.save_best
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    # MMEngine's log goes to the file only; errors are raised anyway.
    with hush():
        runner = launch.build_runner(cfg)
    for handler in runner.logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
            handler.setLevel(logging.ERROR)
    progress = ProgressHook(metric)
    runner.register_hook(progress, priority='LOWEST')
    with hush():
        runner.train()
    progress.close()
    best = max(folder.glob('best_*.pth'), key=os.path.getmtime, default=None)
    last = max(folder.glob('epoch_*.pth'), key=os.path.getmtime, default=None)
    print('\n'.join(_ending(config, best or last, metric, progress.best)))


def _ending(
    config: Path, checkpoint: Path | None, metric: str, best: float | None
) -> list[str]:
    """Return what to do with the result."""
    score = '' if best is None else f': {metric} {best:.3f}'
    return [
        f'best checkpoint{score}: {checkpoint}',
        f'predict: mmmeta predict {config} {checkpoint} IMAGE...',
        f'export:  mmmeta export {config} {checkpoint} -o model.onnx',
        f'go on:   python tools/train.py {config} --work-dir {config.parent} --resume',
    ]
