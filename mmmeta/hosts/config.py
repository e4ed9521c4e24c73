"""Configs of the three host libraries: reading them and applying options."""

import os.path as osp
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from mmmeta.errors import UserError, one_line, require
from mmmeta.hosts.doors import close_doors
from mmmeta.hosts.libraries import LIBRARIES, library_of
from mmmeta.hosts.options import merge_options
from mmmeta.weights.names import find, is_name
from mmmeta.weights.trained import Trained
from mmmeta.weights.zoo import Published

if TYPE_CHECKING:
    from mmengine.config import Config


# Sources of the data sets that the configs use, and the folders they need.
DATASETS = {
    'coco': (
        'COCO 2017 (train2017.zip, val2017.zip and annotations_trainval2017.zip from '
        'https://cocodataset.org/#download), unpacked as annotations/, train2017/ '
        'and val2017/'
    ),
    'ade': (
        'ADE20K (ADEChallengeData2016.zip from '
        'http://sceneparsing.csail.mit.edu), unpacked as images/ and annotations/'
    ),
    'imagenet': (
        'ImageNet-1k (https://image-net.org), unpacked as train/ and val/ with a '
        'folder for each class'
    ),
    'shapes': 'the embedded data set: python -m mmmeta.datasets --root data/shapes',
}


def load_config(name: str, options: Mapping[str, Any] | None = None) -> 'Config':
    """Read a config.

    Args:
        name: A file, `LIBRARY::PATH` for one in an installed library, or the name of a
            published model, such as 'mask_rcnn_poolformer_s12', for its config.
        options: Settings to override, by dotted key. Default: None.

    Raises:
        UserError: It does not exist, cannot be read, or does not accept an option.
        MissingLibraryError: MMEngine is not installed.
    """
    Config = require('mmengine.config', 'onedl', f'config {name}').Config  # noqa: N806

    close_doors()  # do not execute code in files that a config names
    if '::' not in name and not osp.isfile(name):
        if is_name(name):
            row = find(name)
            cfg = load_config(f'mmmeta::{row.config}', _settings_of(row))
            merge_options(cfg, options or {})
            return cfg
        raise UserError(
            f'no config file {name}; expected a path, such as those in configs/, or '
            'LIBRARY::PATH, such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py, or '
            'a name that `mmmeta list --task` lists'
        )
    try:
        if '::' in name:
            path = name if name.endswith('.py') else f'{name}.py'
            # As a base because mmengine.hub would install missing libraries.
            cfg = Config.fromstring(f'_base_ = {path!r}', '.py')
        else:
            cfg = Config.fromfile(name)
    except Exception as error:  # a config is user code
        raise UserError(f'config {name} cannot be read: {one_line(error)}') from error
    merge_options(cfg, options or {})
    return cfg


def _settings_of(row: Published | Trained) -> dict[str, Any]:
    """Return what a published model changes in its config."""
    if isinstance(row, Trained) or row.num_classes == 1000:
        return {}
    return {  # ImageNet-21k's
        'model.head.num_classes': row.num_classes,
        'model.data_preprocessor.num_classes': row.num_classes,
    }


@contextmanager
def building(name: str) -> Iterator[None]:
    """Add to an error which config's model could not be built.

    Raises:
        UserError: For any error inside; a config is user code.
    """
    try:
        yield
    except Exception as error:
        raise UserError(
            f'the model of {name} cannot be built: {one_line(error)}'
        ) from error


def set_amp(cfg: 'Config') -> None:
    """Switch a config to mixed precision training.

    Raises:
        UserError: There is no GPU, which MMEngine's mixed precision needs.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, but none was found; omit --amp')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: 'Config') -> None:
    """Let the runner scale the learning rate to the batch size of this run.

    Raises:
        UserError: The config does not specify the batch size for its learning rate.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the '
            'batch size that its learning rate is meant for'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: 'Config', resume: str) -> None:
    """Resume a run: `resume` is a checkpoint, or 'auto' for the newest one.

    If there is none yet, 'auto' keeps `load_from`, so that a job can use the same
    command for its first start and for restarts.

    Raises:
        UserError: The checkpoint does not exist.
    """
    if resume == 'auto':
        newest = newest_checkpoint(cfg.work_dir)
        cfg.resume = newest is not None
        if newest is not None:
            cfg.load_from = newest
        return
    if '://' not in resume and not osp.exists(osp.expanduser(resume)):
        raise UserError(f'--resume: no checkpoint {resume}')
    cfg.resume = True
    cfg.load_from = resume


def newest_checkpoint(work_dir: str) -> str | None:
    """Return the last checkpoint of a work folder's run, or None before the first.

    Raises:
        UserError: The file that the folder names does not exist.
    """
    from mmmeta.hosts.saving import present

    note = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(note):
        return None
    with open(note) as file:
        named = file.read().strip()
    # The folder may have been moved since.
    for path in (named, osp.join(work_dir, osp.basename(named))):
        if '://' in path:
            return path
        if there := named and present(path):
            return there
    raise UserError(
        f'--resume: {note} names {named or "no file"}, which does not exist; pass the '
        'checkpoint to resume, --resume FILE, or delete that note to start over'
    )


def set_tensorboard(cfg: 'Config') -> None:
    """Also write logs for TensorBoard, next to MMEngine's own files.

    Raises:
        UserError: TensorBoard is not installed.
    """
    require('tensorboard', 'tensorboard', '--tensorboard')
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = visualizer.get('vis_backends') or [dict(type='LocalVisBackend')]
    if all(backend['type'] != 'TensorboardVisBackend' for backend in backends):
        backends = [*backends, dict(type='TensorboardVisBackend')]
    cfg.visualizer = dict(visualizer, vis_backends=backends)


def set_visualization(cfg: 'Config', show: bool, show_dir: str | None) -> None:
    """Draw predictions in test: in windows, into `show_dir`, or both.

    The host libraries configure this differently; `show_dir` has one meaning here.

    Raises:
        UserError: The config has no visualization hook, or its library is unknown.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError(
            '--show and --show-dir need default_hooks.visualization in the config'
        )
    library = LIBRARIES[library_of(cfg, cfg.filename or 'given')]
    library.show(cfg, hook, show, show_dir and osp.abspath(show_dir))


def set_tta(cfg: 'Config') -> None:
    """Average tests at several scales and flips, as set by the config's `tta_*`.

    Raises:
        UserError: The config has no such settings.
    """
    if not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    for dataset in _dataset_cfgs(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def check_evaluator(cfg: 'Config') -> None:
    """Check that a test has everything it needs besides its data.

    Raises:
        UserError: The config has no `test_evaluator`, or no `test_cfg`.
    """
    for name in ('test_evaluator', 'test_cfg'):
        if cfg.get(name) is None:
            raise UserError(
                f'config {cfg.filename} has no {name}; a test needs test_dataloader, '
                'test_cfg and test_evaluator'
            )


def add_output(cfg: 'Config', out: str) -> None:
    """Write the test's predictions to `out`.

    A pickle of the predictions for detectors and classifiers, a folder of PNG maps
    for segmentors, as the host libraries' own tools do. The config's evaluator may be
    a metric, a list of metrics, or an evaluator that has them as `metrics`.

    Raises:
        UserError: The name of a pickle does not end in .pkl or .pickle, or a segmentor
            has no metric that writes maps.
    """
    scope = library_of(cfg, cfg.filename or 'given')
    dump = LIBRARIES[scope].dump
    evaluator = cfg.test_evaluator
    wrapped = isinstance(evaluator, Mapping) and 'metrics' in evaluator
    given = evaluator['metrics'] if wrapped else evaluator
    metrics = list(given) if isinstance(given, list | tuple) else [given]
    if dump is not None:
        if not out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out must end in .pkl or .pickle, got {out}')
        metrics.append(dict(type=dump, out_file_path=out))
    else:
        writer = next((m for m in metrics if _writes_maps(m, scope)), None)
        if writer is None:
            raise UserError(
                f'--out: no metric in test_evaluator of {cfg.filename} writes maps; '
                'expected an IoUMetric, or another that takes output_dir'
            )
        writer['output_dir'] = out
    cfg.test_evaluator = dict(evaluator, metrics=metrics) if wrapped else metrics


def _writes_maps(metric: Mapping[str, Any], scope: str) -> bool:
    """Whether a metric accepts a folder for the maps."""
    from mmengine.registry import METRICS

    require(f'{scope}.evaluation', 'onedl', '--out')
    with METRICS.switch_scope_and_registry(scope) as registry:
        kind = metric['type']
        kind = registry.get(kind) if isinstance(kind, str) else kind
    return kind is not None and 'output_dir' in signature(kind).parameters


def _dataset_cfgs(dataset: dict) -> Iterator[dict]:
    """Yield the configs of data sets inside wrappers such as RepeatDataset."""
    if 'dataset' in dataset:
        yield from _dataset_cfgs(dataset['dataset'])
    elif 'datasets' in dataset:
        for inner in dataset['datasets']:
            yield from _dataset_cfgs(inner)
    else:
        yield dataset


OF_OTHERS = 'LearningRateDecayOptimizerConstructor'


def check_constructor(cfg: 'Config') -> None:
    """Check that the constructor of the optimizer knows the backbone.

    MMDetection's and MMSegmentation's for learning rates that decay by layer raise an
    error without a message where they do not.

    Raises:
        UserError: It does not.
    """
    constructor = str((cfg.get('optim_wrapper') or {}).get('constructor'))
    name = constructor.rpartition('.')[2]
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    kind = str(backbone.get('type'))
    if name == OF_OTHERS and kind.startswith('mmmeta.'):
        raise UserError(
            f'optim_wrapper.constructor {name} knows layers of ConvNeXt (in '
            f'MMSegmentation of BEiT and MAE too), not {kind}: leave it out. '
            "MMPretrain's LearningRateDecayOptimWrapperConstructor knows them, for "
            'classifiers'
        )


def check_data(cfg: 'Config', loaders: tuple[str, ...]) -> None:
    """Check that the data exist before anything is built.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used.

    Raises:
        UserError: A root or annotation file does not exist (says what to download and
            where to put it), or class names are a single string.
    """
    for loader in loaders:
        for dataset in _dataset_cfgs((cfg.get(loader) or {}).get('dataset', {})):
            _check_classes(dataset, loader)
            root = dataset.get('data_root') or ''
            paths = [root, osp.join(root, dataset.get('ann_file') or '')]
            missing = [p for p in paths if p and '://' not in p and not osp.exists(p)]
            if missing:
                link = f' (a link to {osp.realpath(missing[0])})'
                raise UserError(
                    f'{loader}: {missing[0]} does not exist'
                    f'{link if osp.islink(missing[0].rstrip("/")) else ""}. '
                    f'{_how_to_get(dataset, root)}'
                )


def _check_classes(dataset: Mapping[str, Any], loader: str) -> None:
    """Reject a single string as class names: each letter would be a class.

    Raises:
        UserError: It is a string but not a file with names.
    """
    metainfo = dataset.get('metainfo') or {}
    for where, names in (
        ('metainfo.classes', metainfo.get('classes')),
        ('classes', dataset.get('classes')),
    ):
        if isinstance(names, str) and not osp.isfile(osp.expanduser(names)):
            raise UserError(
                f'{loader}: {where} is a string, {names!r}; expected a tuple of names, '
                f'such as ({names!r},) with its comma, or a file with a name per line'
            )


def _how_to_get(dataset: dict, root: str) -> str:
    text = f'{root} {dataset.get("type", "")}'.lower()
    name = next((n for n in ('shapes', *DATASETS) if n in text), None)
    if name == 'shapes':
        return f'Make {DATASETS[name]}'
    what = f'Put {DATASETS[name]} into {root}' if name else f'Put the data into {root}'
    return (
        f'{what}, link to it (ln -s /path/to/it {root.rstrip("/")}), or set data_root '
        'of each data loader (and ann_file of the evaluators) with --cfg-options'
    )
