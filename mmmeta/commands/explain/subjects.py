"""The models that `mmmeta explain` visualizes.

For each: its weights, its preprocessing, the layer to visualize, and the score of a
class if a model has many.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmmeta.archs.families import ARCHS
from mmmeta.commands.arguments import is_config
from mmmeta.commands.explain.maps import Crop, Subject, View, softmax
from mmmeta.commands.explain.scores import DenseScores
from mmmeta.errors import UserError, one_line
from mmmeta.hosts.classes import num_outputs
from mmmeta.hosts.predictor import Predictor, build_predictor, hush
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.locate import locate
from mmmeta.weights.names import SCHEME, find_classifier, nearest
from mmmeta.weights.reading import read_state_dict
from mmmeta.weights.trained import TRAINED
from mmmeta.weights.zoo import ZOO

TIMM = 'timm:'
# Names of the last stage in ResNet, RegNet, ConvNeXt and MetaFormer, Swin, transformers
# and MLPs, VGG and DenseNet.
LAST_STAGE = ('layer4', 's4', 'stages', 'layers', 'blocks', 'features')


def load_subject(
    spec: str, device: str = 'cpu', random: bool = False, layer: str | None = None
) -> Subject:
    """Build a model with its weights.

    Args:
        spec: `MODEL` or `MODEL=CHECKPOINT`. MODEL is a name from `mmmeta list`, with or
            without a tag, `timm:NAME`, or a config file, which needs a checkpoint.
            Without one the published weights are downloaded.
        device: Device of the model. Default: 'cpu'.
        random: Keep models without a checkpoint untrained instead. Default: False.
        layer: Name of the module to visualize, such as 'backbone.stages.2'. Default:
            the last stage, see docs/commands/explain.md.

    Raises:
        UserError: An unknown model or layer, or weights that cannot be obtained.
    """
    name, _, checkpoint = spec.partition('=')
    with hush():
        if is_config(name) or name in TRAINED:
            return _load_config(name, checkpoint, device, layer)
        build = _build_timm if name.startswith(TIMM) else _build_own
        try:
            model, crop, num_classes = build(name, checkpoint, random)
        except CheckpointError as error:
            raise UserError(
                f'{name}: {error}. Pass a file as {name}=CHECKPOINT, or --random for '
                'untrained weights'
            ) from error
    model = model.eval().to(device)
    title = f'{name}\n{checkpoint.rpartition("/")[2]}' if checkpoint else name
    default, prefix = _last_stage(getattr(model, 'backbone', model))
    return Subject(
        title=f'{title}\nuntrained' if random and not checkpoint else title,
        scores_for=lambda view: model,
        layer=_find_layer(model, layer, name) if layer else default,
        prepare=crop,
        classes=_imagenet_classes(num_classes),
        prefix=prefix,
        channels_last=getattr(model, 'output_fmt', '') == 'NHWC',
    )


def _build_own(name: str, checkpoint: str, random: bool) -> tuple[nn.Module, Crop, int]:
    from mmmeta.models.build import create_model, create_with_head

    if name not in ARCHS and name not in ZOO:
        raise UserError(
            f'unknown model {name!r}{_hint(name, [*ARCHS, *ZOO, *TRAINED])}. Expected '
            'a name from `mmmeta list`, with or without --task, timm:NAME or '
            'CONFIG.py=CHECKPOINT'
        )
    row = find_classifier(name)
    if checkpoint:
        model = create_with_head(row.arch, checkpoint)
    elif random:
        model = create_model(row.arch, num_classes=row.num_classes)
    else:
        model = create_model(row.name)
    size = (row.input_size, row.input_size)
    crop = Crop(size, row.crop_pct, row.mean, row.std, row.interpolation)
    return model, crop, num_outputs(model)


def _build_timm(
    name: str, checkpoint: str, random: bool
) -> tuple[nn.Module, Crop, int]:
    import timm
    from timm.data import resolve_model_data_config

    arch = name.removeprefix(TIMM)
    if not timm.is_model(arch):
        raise UserError(f'timm has no model {arch!r}{_hint(arch, timm.list_models())}')
    model: Any  # timm's types do not describe its attributes
    if checkpoint:
        model = _load_timm(arch, checkpoint)
    else:
        # It would retry for a minute and log every attempt.
        logging.getLogger('huggingface_hub').setLevel(logging.ERROR)
        try:
            model = timm.create_model(arch, pretrained=not random)
        except Exception as error:  # the hub or network may raise anything
            raise CheckpointError(
                f'the weights cannot be downloaded ({one_line(error)})'
            ) from error
    data = resolve_model_data_config(model)
    crop = Crop(
        data['input_size'][1:],
        None if data['crop_mode'] == 'squash' else data['crop_pct'],
        data['mean'],
        data['std'],
        data['interpolation'],
    )
    return model, crop, model.num_classes


def _load_timm(arch: str, checkpoint: str) -> nn.Module:
    import timm

    state = read_state_dict(locate(checkpoint))
    model: Any = timm.create_model(arch)
    classifier = state.get(f'{model.pretrained_cfg.get("classifier")}.weight')
    if classifier is not None and len(classifier) != model.num_classes:
        model = timm.create_model(arch, num_classes=len(classifier))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f'{checkpoint} does not fit ({one_line(error)})'
        ) from error
    return model


def _hint(name: str, names: list[str]) -> str:
    near = nearest(name, names)
    return f'; nearest: {", ".join(near)}' if near else ''


def _load_config(name: str, checkpoint: str, device: str, layer: str | None) -> Subject:
    if not checkpoint:
        if is_config(name):
            raise UserError(f'{name} needs its checkpoint: {name}=CHECKPOINT')
        checkpoint = SCHEME + name
    predictor = build_predictor(name, checkpoint, device)
    model = predictor.inferencer.model
    dense = predictor.task != 'classification'
    default, prefix = _last_stage(model.backbone)
    return Subject(
        title=f'{name.rpartition("/")[2]}\n{checkpoint.rpartition("/")[2]}',
        scores_for=(
            (lambda view: DenseScores(model, view.samples, len(predictor.classes)))
            if dense
            else (lambda view: model)
        ),
        layer=_find_layer(model, layer, name) if layer else default,
        prepare=_Pipeline(predictor) if dense else _crop_of(predictor),
        classes=predictor.classes,
        dense=dense,
        prefix=prefix,
        probabilities=_probabilities(model),
    )


def _probabilities(model: Any) -> Callable[[Tensor], Tensor]:
    """Return what makes probabilities of a classifier's scores."""
    from mmpretrain.models.heads import MultiLabelClsHead

    several = isinstance(getattr(model, 'head', None), MultiLabelClsHead)
    return torch.sigmoid if several else softmax


class _Pipeline:
    """Prepares images as a detector's or segmentor's test pipeline does."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __call__(self, image: np.ndarray) -> View:
        bgr = np.ascontiguousarray(image[..., ::-1])
        batch = self.predictor.prepare([bgr])
        data = self.predictor.inferencer.model.data_preprocessor(batch, False)
        samples = data['data_samples']
        box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
        return View(data['inputs'], samples[0].img_shape[:2], box, samples)


def _crop_of(predictor: Predictor) -> Crop:
    """Return the preprocessing of a classifier's test pipeline."""
    steps = {
        str(step['type']).split('.')[-1]: step
        for step in predictor.inferencer.config.test_dataloader.dataset.pipeline
    }
    if 'CenterCrop' in steps and 'ResizeEdge' in steps:
        size, resize = steps['CenterCrop']['crop_size'], steps['ResizeEdge']
        crop_pct = size / resize['scale']
    elif 'Resize' in steps:
        resize, crop_pct = steps['Resize'], None
        size = resize['scale']
    else:
        raise UserError('the test pipeline needs ResizeEdge and CenterCrop, or Resize')
    normalize = predictor.inferencer.model.data_preprocessor
    mean, std = torch.zeros(1), torch.ones(1)
    if getattr(normalize, 'mean', None) is not None:
        mean, std = normalize.mean.flatten(), normalize.std.flatten()
    return Crop(
        (size, size) if isinstance(size, int) else tuple(size)[::-1],
        crop_pct,
        (mean / 255).tolist(),
        (std / 255).tolist(),
        resize.get('interpolation', 'bilinear'),
        predictor.channels,
        is_bgr=not getattr(normalize, 'to_rgb', True),
    )


def _last_stage(model: nn.Module) -> tuple[nn.Module | None, int]:
    """Return the module to visualize, or None, and the number of tokens to skip."""
    prefix = getattr(model, 'num_prefix_tokens', 0)
    norm = getattr(model, f'norm{getattr(model, "out_indices", (0,))[-1]}', None)
    if getattr(model, 'fork_feat', False) and norm is not None:
        return norm, 0  # the neck's input
    stages = next((getattr(model, n) for n in LAST_STAGE if hasattr(model, n)), None)
    if stages is None:
        return None, prefix
    listed = isinstance(stages, nn.Sequential | nn.ModuleList)
    last = stages[-1] if listed else stages
    if getattr(model, 'global_pool', '') == 'token':
        # After the last attention only the class token has a gradient.
        last = getattr(last, 'norm1', None)
    return last, prefix


def _find_layer(model: nn.Module, layer: str, name: str) -> nn.Module:
    try:
        return model.get_submodule(layer)
    except AttributeError as error:
        known = [n for n, _ in model.named_modules()]
        near = nearest(layer, known) or [n for n, _ in model.named_children()]
        raise UserError(
            f'{name} has no layer {layer!r}; nearest: {", ".join(near)}'
        ) from error


def _imagenet_classes(number: int) -> list[str] | None:
    from timm.data import ImageNetInfo

    subset = {1000: 'imagenet-1k', 21841: 'imagenet-22k'}.get(number)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(i).split(',')[0] for i in range(number)]
