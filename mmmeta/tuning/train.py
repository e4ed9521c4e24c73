"""From a data set to a trained model."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmmeta.data import DataSet, read_data
from mmmeta.data.tree import MARKER
from mmmeta.errors import UserError, one_line, printable
from mmmeta.tuning.files import split, write_annotations, write_text
from mmmeta.tuning.plan import Plan, make_plan
from mmmeta.tuning.text import config_text
from mmmeta.weights.names import SCHEME

if TYPE_CHECKING:
    from mmengine.config import Config

# Faults of maps that are converted, so that they do no harm.
CONVERTED = ('map-binary', 'map-gaps', 'map-colors')
MOST_PROBLEMS = 8  # that an error lists
CONFIG = 'config.py'
DATA = 'finetune_data'  # the folder of annotations in the work dir
WRITTEN = 'Written by `mmmeta finetune`'


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
    problems = [
        p.text
        for p in data.problems
        if p.severity == 'error' and p.kind not in CONVERTED
    ]
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
        parts['train'],
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
    print('\n'.join(map(printable, _summary(plan, data, parts, config))))
    if not dry_run:
        _fetch(plan)
        train(config, folder)
    return folder


def _summary(
    plan: Plan, data: DataSet, parts: Mapping[str, Sequence[Any]], config: Path
) -> list[str]:
    """Return what will be trained, and on what."""
    images = ', '.join(f'{len(items):,} {name}' for name, items in parts.items())
    held = '' if 'val' in data.splits else ' (held out: there was no val)'
    lines = [
        _title(plan, data).removesuffix('.'),
        f'images:  {images}{held}; {len(plan.classes)} classes',
        f'weights: {plan.load_from or plan.weights or "none, random ones"}',
        f'config:  {config}, {plan.epochs} epochs at most',
    ]
    if warnings := sum(p.severity == 'warning' for p in data.problems):
        lines.append(f'{warnings} kinds of warnings: `mmmeta data` shows them')
    return lines


def _fetch(plan: Plan) -> None:
    """Download published weights, which may take minutes, before anything is built.

    Raises:
        CheckpointError: They cannot be obtained.
    """
    from mmmeta.weights.errors import CheckpointError
    from mmmeta.weights.locate import is_remote, locate

    name = plan.weights or plan.load_from
    if name is None or not is_remote(name):
        return
    try:
        locate(name)
    except CheckpointError as error:
        raise CheckpointError(
            f'{error}. `mmmeta download {name.removeprefix(SCHEME)}` on a machine '
            'with a network gets it; --weights none trains without it'
        ) from error


def prepare(plan: Plan, data: DataSet, parts: dict[str, Any], folder: Path) -> Path:
    """Write the annotations and the config; return the config's path.

    Raises:
        UserError: The folder has checkpoints of another run, or other files.
    """
    from mmmeta.hosts.config import load_config

    config = folder / CONFIG
    _check_new(config, folder)
    if config.exists() and WRITTEN not in config.read_text('utf-8', 'replace'):
        raise UserError(
            f'{config} exists, and is not of `mmmeta finetune`: choose another '
            '--work-dir'
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()  # no data, if it is inside of a data set
    base = load_config(f'mmmeta::{plan.base}')
    files = write_annotations(data, parts, folder.resolve() / DATA)
    text = config_text(
        plan, base, files, _palette(data), _title(plan, data), _commands(folder)
    )
    write_text(config, text)
    load_config(str(config))  # raises for what cannot be read
    return config


def _check_new(config: Path, folder: Path) -> None:
    if any(folder.glob('*.pth')):
        raise UserError(
            f'{folder} has checkpoints of another run. To go on with it: '
            f'{_resume(config, folder)}; to begin anew: another --work-dir'
        )


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
    return f'{names[plan.method]}, {plan.type}-{size}, on {printable(data.root.name)}.'


def _commands(folder: Path) -> list[str]:
    config, place = _quoted(folder / CONFIG), _quoted(folder)
    return [
        f'{WRITTEN}; change what you like, and train again:',
        f'    mmmeta finetune --config {config}',
        f'or  python tools/train.py {config} --work-dir {place}',
    ]


def _quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return printable(shlex.quote(str(path)))


def _resume(config: Path, folder: Path) -> str:
    place = '' if folder == config.parent else f' --work-dir {_quoted(folder)}'
    return f'mmmeta finetune --config {_quoted(config)}{place} --resume'


def train(config: Path, folder: Path, resume: bool = False) -> None:
    """Train a config with a progress bar, and print how to use the result.

    Args:
        config: As `prepare` writes it, or of that kind.
        folder: The work dir.
        resume: Go on from the newest checkpoint in it, if there is one. Default: False.

    Raises:
        UserError: There are checkpoints of another run; something does not fit, or the
            memory is not enough.
        KeyboardInterrupt: Says how to go on.
    """
    from mmmeta.hosts.config import check_data, load_config, set_resume
    from mmmeta.hosts.hooks import ProgressHook

    cfg = load_config(str(config))
    cfg.work_dir = str(folder)
    cfg.launcher = 'none'
    if resume:
        set_resume(cfg, 'auto')
    else:
        _check_new(config, folder)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    progress = ProgressHook(cfg.default_hooks.checkpoint.get('save_best'))
    try:
        _run(cfg, config, progress)
    except KeyboardInterrupt:
        again = _resume(config, folder)
        if not any(folder.glob('*.pth')):
            again = again.removesuffix(' --resume')
            text = f'no checkpoint was saved yet; to begin anew: {again}'
            raise KeyboardInterrupt(text) from None
        raise KeyboardInterrupt(f'to go on: {again}') from None
    except RuntimeError as error:
        if advice := _advice(error):
            raise UserError(f'{advice} ({one_line(error, 100)})') from error
        raise
    finally:
        progress.close()
    print('\n'.join(_ending(config, folder, progress)))


def _run(cfg: 'Config', config: Path, progress: Any) -> None:
    from mmmeta.hosts import launch
    from mmmeta.hosts.config import building
    from mmmeta.hosts.predictor import hush

    if cfg.get('visualizer'):
        # MMEngine keeps it by name, with the folder of the process' first run.
        cfg.visualizer.name = f'{config.stem}_{time.time_ns()}'
    with hush():
        with building(str(config)):
            runner = launch.build_runner(cfg)
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler:
                _tame(handler)
        runner.register_hook(progress, priority='LOWEST')
        launch.train(runner)


def _tame(handler: logging.StreamHandler) -> None:
    """Let the terminal show only what was not loaded; the file has the whole log."""
    handler.setStream(sys.stderr)
    handler.setFormatter(logging.Formatter('%(message)s'))
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: record.module == 'checkpoints')


def _advice(error: RuntimeError) -> str | None:
    """Return what to do about errors of PyTorch that depend on the machine."""
    text = str(error)
    if 'out of memory' in text or "can't allocate memory" in text:
        return 'the memory is not enough: pass a smaller --batch-size or --image-size'
    return None


def _ending(config: Path, folder: Path, progress: Any) -> list[str]:
    """Return what to do with the result."""
    best = max(folder.glob('best_*.pth'), key=os.path.getmtime, default=None)
    last = max(folder.glob('epoch_*.pth'), key=os.path.getmtime, default=None)
    if best is not None:
        score = '' if progress.best is None else f' ({progress.said(progress.best)})'
        first = f'best checkpoint{score}: {best}'
    else:
        first = f'last checkpoint (none has a score): {last}'
    place = _quoted(config)
    found = _quoted(best or last or folder)
    return [
        printable(first),
        f'predict: mmmeta predict {place} {found} IMAGE...',
        f'export:  mmmeta export {place} {found} -o model.onnx',
        f'go on:   {_resume(config, folder)}',
    ]
