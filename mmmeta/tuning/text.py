"""The config as text: what differs from the inherited one, to be read and changed."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmmeta.archs.families import ARCHS
from mmmeta.tuning.plan import SCRATCH, SIDES, Plan

if TYPE_CHECKING:
    from mmengine.config import Config

WIDTH = 88
PATIENCE = 0.5  # of the epochs, without a better score: most is won at low rates
VALIDATIONS = 20  # at most, in a training
WARM_UP = 0.1  # of the training, at most 500 iterations
LAST_LR = 0.02  # of the highest learning rate
SCALES = (0.75, 1.33)  # least and largest factor of RandomResize, with `SCRATCH`
SHORT = min(SIDES['detection'])  # of the images of the detectors' recipes
KAIMING = dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')


class Code(str):
    """An expression that is written as it is."""


def config_text(
    plan: Plan,
    base: 'Config',
    files: Mapping[str, Mapping[str, Any]],
    palette: Sequence[Sequence[int]],
    title: str,
    commands: Sequence[str],
) -> str:
    """Return a config.

    Args:
        plan: The decisions.
        base: The config that is inherited.
        files: By split, the settings of the data set that name its files.
        palette: Colors of the classes, RGB.
        title: First line of the docstring.
        commands: Lines of the docstring, on how to run it.
    """
    parts = [
        _docstring([title, '', *commands]),
        f"_base_ = 'mmmeta::{plan.base}'",
        f'metainfo = {code(_metainfo(plan, palette))}',
        _model(plan, base),
        *_data(plan, base, files),
        *_schedule(plan, base),
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _docstring(lines: Sequence[str]) -> str:
    text = '\n'.join(lines)
    # Folders may have any names.
    start = 'r' if '\\' in text else ''
    return f'{start}"""' + text.replace('"""', "'''") + '\n"""'


def code(value: Any, indent: int = 0, used: int = 12) -> str:
    """Return a value as Python, dicts as `dict(...)`, in lines of at most 88.

    Args:
        value: Of dicts, lists, tuples and plain values.
        indent: Of the line that it begins in.
        used: Characters before it in that line, beside the indent.
    """
    flat = _flat(value)
    if indent + used + len(flat) <= WIDTH or not isinstance(value, dict | list | tuple):
        return flat
    inner = ' ' * (indent + 4)
    if isinstance(value, dict) and all(map(str.isidentifier, value)):
        lines = [
            f'{inner}{k}={code(v, indent + 4, len(k) + 2)},' for k, v in value.items()
        ]
        start, end = 'dict(', ')'
    elif isinstance(value, dict):
        lines = [f'{inner}{k!r}: {code(v, indent + 4)},' for k, v in value.items()]
        start, end = '{', '}'
    else:
        lines = [f'{inner}{code(v, indent + 4, 1)},' for v in value]
        start, end = ('[', ']') if isinstance(value, list) else ('(', ')')
    return '\n'.join([start, *lines, ' ' * indent + end])


def _flat(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, dict):
        if all(map(str.isidentifier, value)):
            return f'dict({", ".join(f"{k}={_flat(v)}" for k, v in value.items())})'
        return f'{{{", ".join(f"{k!r}: {_flat(v)}" for k, v in value.items())}}}'
    if isinstance(value, list | tuple):
        inside = ', '.join(map(_flat, value))
        if isinstance(value, list):
            return f'[{inside}]'
        return f'({inside},)' if len(value) == 1 else f'({inside})'
    if isinstance(value, float):
        return f'{value:.4g}'
    # MMEngine replaces names such as {{ fileDirname }}, wherever they are.
    return repr(value).replace('{{', r'{\x7b') if '{{' in str(value) else repr(value)


def _metainfo(plan: Plan, palette: Sequence[Sequence[int]]) -> dict[str, Any]:
    return dict(
        classes=tuple(plan.classes), palette=[tuple(color) for color in palette]
    )


# -- the model --------------------------------------------------------------------


def _model(plan: Plan, base: 'Config') -> str:
    number = len(plan.classes)
    model: dict[str, Any] = {}
    backbone = _backbone(plan, base)
    if backbone:
        model['backbone'] = backbone
    dims = list(ARCHS[plan.backbone].dims)
    neck = base.model.get('neck') or {}
    if not plan.own_backbone and list(neck.get('in_channels', dims)) != dims:
        model['neck'] = dict(in_channels=dims)
    if plan.task in ('detection', 'instances'):
        if plan.large:
            model['neck'] = dict(model.get('neck', {}), num_outs=5)
        model |= _detector(plan, number)
    elif plan.task == 'segmentation':
        model |= _segmentor(plan, base, number, dims)
    else:
        model |= dict(
            head=dict(num_classes=number),
            data_preprocessor=dict(num_classes=number),
        )
        # Mixed images teach little in a short training.
        if base.model.get('train_cfg'):
            model['train_cfg'] = None
        loss = base.model.head.get('loss', {})
        if 'num_classes' in loss:
            model['head']['loss'] = dict(num_classes=number)
    return f'model = {code(model, 0, 8)}'


def _backbone(plan: Plan, base: 'Config') -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if not plan.own_backbone:
        size = plan.backbone.partition('_')[2]
        changes |= dict(_delete_=True, type=f'mmmeta.{plan.type}', arch=size)
        if 'fork_last3' in base.model.backbone:
            changes['fork_last3'] = base.model.backbone.fork_last3
    given = base.model.backbone.get('init_cfg') or {}
    if plan.weights is not None and given.get('checkpoint') != plan.weights:
        changes['init_cfg'] = dict(type='Pretrained', checkpoint=plan.weights)
    elif plan.weights is None and plan.load_from is None:
        replaces = plan.own_backbone and 'init_cfg' in base.model.backbone
        changes['init_cfg'] = dict(_delete_=True, **KAIMING) if replaces else KAIMING
    elif plan.weights is None and given:
        changes['init_cfg'] = None  # load_from has the backbone as well
    if plan.frozen_stages >= 0:
        changes |= dict(frozen_stages=plan.frozen_stages, norm_eval=True)
    return changes


def _detector(plan: Plan, number: int) -> dict[str, Any]:
    retinanet = plan.method == 'retinanet'
    first = 8 if retinanet else 4  # stride in pixels
    anchors: dict[str, Any] = {}
    if plan.smallest or plan.large:
        scale = max(1, (plan.smallest or 32) // first)  # to their stride
        anchors |= dict(octave_base_scale=scale) if retinanet else dict(scales=[scale])
    if plan.elongated:
        anchors['ratios'] = [0.5, 1.0, 2.0]
    if plan.large:
        anchors['strides'] = [first * 2**i for i in range(5)]
    changes: dict[str, Any] = dict(anchor_generator=anchors) if anchors else {}
    if retinanet:
        return dict(bbox_head=dict(num_classes=number, **changes))
    if changes:
        changes = dict(rpn_head=changes)
    box_head: Any = dict(num_classes=number)
    if plan.method == 'cascade_mask_rcnn':
        box_head = Code(
            f'[dict(head, num_classes={number}) for head in '
            '_base_.model.roi_head.bbox_head]'
        )
    roi_head = dict(bbox_head=box_head, mask_head=dict(num_classes=number))
    if plan.large:
        for part in ('bbox', 'mask'):
            roi_head[f'{part}_roi_extractor'] = dict(finest_scale=56)
    return dict(changes, roi_head=roi_head)


def _segmentor(
    plan: Plan, base: 'Config', number: int, dims: list[int]
) -> dict[str, Any]:
    head: dict[str, Any] = dict(num_classes=number)
    loss = base.model.decode_head.get('loss_decode') or {}
    if loss.get('class_weight'):  # of the base's classes
        head['loss_decode'] = dict(class_weight=None)
    changes: dict[str, Any] = dict(decode_head=head)
    auxiliary = base.model.get('auxiliary_head')
    if auxiliary:
        changes['auxiliary_head'] = dict(num_classes=number)
    if not plan.own_backbone and 'neck' not in base.model:
        if list(base.model.decode_head.in_channels) != dims:
            head['in_channels'] = dims
        if auxiliary and auxiliary.in_channels != dims[2]:
            changes['auxiliary_head']['in_channels'] = dims[2]
    if plan.size:
        side = plan.size[1]
        changes['data_preprocessor'] = dict(size=(side, side))
    return changes


# -- the data ---------------------------------------------------------------------


def _data(
    plan: Plan, base: 'Config', files: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    lines = []
    pipelines = _pipelines(plan, base, files['train'])
    named: dict[str, Any] = {}
    for name, steps in pipelines.items():
        lines.append(f'{name} = {code(steps, 0, len(name) + 3)}')
        named[name] = Code(name)
    loaders = {}
    for split, pipeline in (('train', 'train_pipeline'), ('val', 'test_pipeline')):
        dataset = _dataset(plan, files[split], named.get(pipeline), split)
        if split == 'train' and plan.balance:
            same = Code('_base_.train_dataloader.dataset.pipeline')
            again = named.get(pipeline) or same
            dataset.pop('_delete_', None)
            dataset = dict(
                _delete_=True,
                type='ClassBalancedDataset',  # repeats images with rare classes
                oversample_thr=plan.balance,
                dataset={**_own(plan, base), **dataset, 'pipeline': again},
            )
        loaders[split] = dict(
            batch_size=_batch(plan, split),
            num_workers=plan.workers,
            persistent_workers=plan.workers > 0,
            **_sampler(plan, base, split),
            **_drop_last(plan, split),
            dataset=dataset,
        )
    lines += [
        f'train_dataloader = {code(loaders["train"], 0, 19)}',
        f'val_dataloader = {code(loaders["val"], 0, 17)}',
    ]
    if plan.task == 'classification':
        top = (1, 5) if len(plan.classes) > 5 else (1,)
        lines.append(f'val_evaluator = {code(dict(topk=top))}')
    elif plan.task != 'segmentation':
        evaluator: dict[str, Any] = dict(ann_file=files['val']['ann_file'])
        lines.append(f'val_evaluator = {code(evaluator, 0, 16)}')
    lines.append(_test(plan, files, named))
    return lines


def _test(
    plan: Plan, files: Mapping[str, Mapping[str, Any]], named: Mapping[str, Any]
) -> str:
    """Return the settings of the test, which by default is the validation."""
    evaluator = '\ntest_evaluator = val_evaluator'
    if plan.task == 'segmentation':  # the base's
        evaluator = ''
    if 'test' not in files:
        return f'test_dataloader = val_dataloader{evaluator}'
    dataset = _dataset(plan, files['test'], named.get('test_pipeline'), 'test')
    loader = dict(
        batch_size=_batch(plan, 'test'),
        num_workers=plan.workers,
        persistent_workers=plan.workers > 0,
        dataset=dataset,
    )
    text = f'test_dataloader = {code(loader, 0, 18)}'
    if plan.task in ('classification', 'segmentation'):
        return f'{text}{evaluator}'
    return f'{text}\ntest_evaluator = dict(ann_file={files["test"]["ann_file"]!r})'


def _dataset(
    plan: Plan, files: Mapping[str, Any], pipeline: Code | None, split: str
) -> dict[str, Any]:
    dataset: dict[str, Any] = dict(files, metainfo=Code('metainfo'))
    if plan.task == 'segmentation':
        dataset = dict(type='BaseSegDataset', **dataset)
    elif plan.task == 'classification':
        # Other than the base's, it is not one of ImageNet's splits.
        dataset = dict(_delete_=True, type='CustomDataset', **dataset)
        same = Code(f'_base_.{split}_dataloader.dataset.pipeline')
        return dict(dataset, pipeline=pipeline or same)
    else:
        dataset = dict(data_root='', **dataset)
        if split == 'train' and plan.keep_all:
            # Images without objects teach what is none.
            dataset['filter_cfg'] = dict(filter_empty_gt=False, min_size=1)
    if pipeline is not None:
        dataset['pipeline'] = pipeline
    return dataset


def _batch(plan: Plan, split: str) -> int:
    # Images of several sizes would be padded, which changes what is found in them, or,
    # by MMSegmentation, not be stacked at all.
    together = split == 'train' or plan.task == 'classification'
    return plan.batch_size if together else 1


def _own(plan: Plan, base: 'Config') -> dict[str, Any]:
    """Return what a data set in a wrapper has to repeat of the base's."""
    if plan.task == 'classification':
        return {}
    given = base.train_dataloader.dataset
    return {k: given[k] for k in ('type', 'filter_cfg') if k in given}


def _sampler(plan: Plan, base: 'Config', split: str) -> dict[str, Any]:
    given = base[f'{split}_dataloader']
    if split == 'train' and given.get('sampler', {}).get('type') == 'InfiniteSampler':
        return dict(sampler=dict(type='DefaultSampler'))  # of epochs
    return {}


def _drop_last(plan: Plan, split: str) -> dict[str, Any]:
    """Leave out a last batch of one image, with which UPerNet's norms fail."""
    alone = split == 'train' and plan.train % plan.batch_size == 1
    return dict(drop_last=True) if plan.method == 'upernet' and alone else {}


def _pipelines(plan: Plan, base: 'Config', files: Mapping[str, Any]) -> dict[str, list]:
    """Return the pipelines that differ from the base's, by name."""
    if plan.task == 'classification' and plan.size is None:
        return {}
    if plan.size is None and plan.task != 'segmentation':
        return {}
    reduce = files.get('reduce_zero_label')
    pipelines = {}
    for name in ('train_pipeline', 'test_pipeline'):
        split = 'train' if name == 'train_pipeline' else 'val'
        steps = base[f'{split}_dataloader'].dataset.pipeline
        found = [_step(plan, copy.deepcopy(dict(step)), reduce) for step in steps]
        pipelines[name] = found
        kinds = [step['type'] for step in found]
        # Few images teach random weights little, unless they are seen in many ways.
        if split == 'train' and plan.base in SCRATCH.values():
            place = kinds.index('Resize')
            found[place] |= dict(type='RandomResize', ratio_range=SCALES)
            found.insert(place + 1, _crop(plan.task, found[place]['scale']))
            found.insert(-1, dict(type='PhotoMetricDistortion'))
    return pipelines


def _crop(task: str, scale: Sequence[int]) -> dict[str, Any]:
    """Return a random crop of images that were resized to a scale, in pixels."""
    if task == 'segmentation':
        side, more = min(scale), dict(cat_max_ratio=0.75)
    else:
        side, more = max(scale), dict(allow_negative_crop=True)
    return dict(type='RandomCrop', crop_size=(side, side), **more)


def _step(plan: Plan, step: dict[str, Any], reduce: bool | None) -> dict:
    """Return a step of a pipeline for images of the plan's size."""
    step.pop('backend_args', None)
    kind = step['type']
    if kind == 'RandomChoice':  # of lists of steps
        step['transforms'] = [
            [_step(plan, dict(inner), reduce) for inner in steps]
            for steps in step['transforms']
        ]
    if reduce is not None and kind == 'LoadAnnotations':
        step['reduce_zero_label'] = reduce
    if kind == 'RandomFlip':  # photographs have a top
        step.pop('direction', None)
    if plan.size is None:
        return step
    long, short = plan.size
    if plan.task == 'segmentation':
        if kind in ('Resize', 'RandomResize') and 'scale' in step:
            step['scale'] = (max(4 * short, long), short)
        if 'crop_size' in step:
            step['crop_size'] = (short, short)
    elif plan.task == 'classification':
        if kind in ('RandomResizedCrop', 'ResizeEdge', 'CenterCrop', 'Resize'):
            key = 'crop_size' if kind == 'CenterCrop' else 'scale'
            step[key] = short
    elif kind == 'Resize':
        step['scale'] = (long, short)
    elif kind == 'RandomChoiceResize':
        step['scales'] = [
            (max(1, round(short * min(scale) / SHORT)), long)
            for scale in step['scales']
        ]
    elif kind == 'RandomCrop':
        step['crop_size'] = tuple(
            max(1, round(short * side / SHORT)) for side in step['crop_size']
        )
    return step


# -- the schedule -----------------------------------------------------------------


def _schedule(plan: Plan, base: 'Config') -> list[str]:
    interval = max(1, plan.epochs // VALIDATIONS)
    iterations = -(-plan.train // plan.batch_size)
    warm_up = max(1, min(500, round(WARM_UP * plan.epochs * iterations)))
    loop = dict(
        _delete_=True,
        type='EpochBasedTrainLoop',
        max_epochs=Code('max_epochs'),
        val_interval=interval,
    )
    schedulers = [
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warm_up),
        dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            begin=0,
            end=Code('max_epochs'),
            T_max=Code('max_epochs'),
            eta_min_ratio=LAST_LR,
            convert_to_iter_based=True,
        ),
    ]
    lr, full = base.optim_wrapper.optimizer.lr, base.auto_scale_lr.base_batch_size
    # AdamW's step does not grow with the gradient, so the root of the batch size.
    scaled = float(f'{lr * (plan.batch_size / full) ** 0.5:.2g}')
    optimizer: dict[str, Any] = dict(lr=scaled)
    wrapper: dict[str, Any] = dict(optimizer=optimizer)
    if plan.task == 'classification':
        wrapper['optimizer'] = dict(
            _delete_=True, type='AdamW', lr=min(scaled, 5e-4), weight_decay=0.05
        )
    hooks: dict[str, Any] = dict(
        logger=dict(interval=max(1, min(50, iterations // 2))),
        checkpoint=dict(
            by_epoch=True,
            interval=interval,
            max_keep_ckpts=1,
            save_best=plan.metric,
            rule='greater',
        ),
        early_stopping=dict(
            type='EarlyStoppingHook',
            monitor=plan.metric,
            rule='greater',
            # MMEngine's 0.1 is for percent; it would stop while AP rises.
            min_delta=0.001 if 'mAP' in plan.metric else 0.1,
            patience=max(5, round(PATIENCE * plan.epochs / interval)),
        ),
    )
    lines = [
        f'max_epochs = {plan.epochs}\n'
        f'train_cfg = {code(loop)}\n'
        f'param_scheduler = {code(schedulers, 0, 18)}',
        f'# For batches of {plan.batch_size}; the inherited one is {lr:g} for {full}.\n'
        f'optim_wrapper = {code(wrapper, 0, 16)}\n'
        f'auto_scale_lr = dict(base_batch_size={plan.batch_size})',
        f'default_hooks = {code(hooks, 0, 16)}\n'
        'log_processor = dict(by_epoch=True)\n'
        f'randomness = dict(seed={plan.seed})',
    ]
    if plan.load_from:
        lines.append(f'load_from = {plan.load_from!r}')
    return lines
