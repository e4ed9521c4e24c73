"""Parameters and multiply-accumulates, counted as in the papers."""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmmeta.errors import UserError, one_line
from mmmeta.hosts.channels import image_channels
from mmmeta.hosts.config import building, load_config
from mmmeta.hosts.predictor import hush
from mmmeta.models.layers import ChannelLayerNorm, MapLayerNorm
from mmmeta.weights.trained import TRAINED

if TYPE_CHECKING:
    from mmdet.models import BaseRoIExtractor, TwoStageDetector
    from mmdet.models.roi_heads import BaseRoIHead

NORMS = (_BatchNorm, ChannelLayerNorm, MapLayerNorm, nn.GroupNorm, nn.LayerNorm)

# Numbers of boxes and masks for which a two-stage detector's heads are counted, as in
# MMDetection 2, which the published figures come from.
NUM_BOXES, NUM_MASKS = 1000, 100

# For COCO's 800x1333 the papers use a width that is divisible by the strides.
PRINTED_SIZE = {(800, 1333): (800, 1280)}


@dataclass(frozen=True)
class Complexity:
    """The cost of a model or a part of one.

    Attributes:
        params: Trainable and frozen parameters.
        frozen: Values in buffers that the paper counts separately (RandFormer's
            matrices).
        macs: Multiply-accumulates of convolutions, linear layers and attention
            (including its two matrix products). Pooling, activations, scales and
            norms are not counted.
        norm_macs: fvcore's count for norms, five per element. The figures of
            PoolFormer and UniFormer include it; those of the MetaFormer baselines do
            not, since fvcore does not recognize norms made of simple operations.
    """

    params: int
    frozen: int
    macs: int
    norm_macs: int


def count(model: nn.Module, size: tuple[int, int] = (224, 224)) -> Complexity:
    """Count a model for one image of (height, width) `size`.

    The model is run once, in evaluation mode, on its own device; on
    `torch.device('meta')` nothing is computed. The heads of a two-stage detector are
    counted for 1000 boxes and 100 masks.
    """
    return count_parts(model, size)['']


def count_parts(
    model: nn.Module, size: tuple[int, int] = (224, 224)
) -> dict[str, Complexity]:
    """Count a model and its parts for one image, as `count` does.

    Args:
        model: A backbone, classifier, detector or segmentor.
        size: Height and width of the image in pixels. Default: (224, 224).

    Returns:
        Costs by the part's name in the model, in the model's order: backbone, its
        stages (`backbone.stages.0`), neck and heads, separately for a two-stage
        detector (`roi_head.bbox_head`). The whole model is `''`. Heads used only in
        training have parameters but no MACs.
    """
    counter, normalized = _run(model, size)
    counts = counter.get_flop_counts()
    return {
        name: Complexity(
            params=sum(p.numel() for p in part.parameters()),
            frozen=sum(
                b.numel() for n, b in part.named_buffers() if 'random_matrix' in n
            ),
            macs=(_flops(part, name, counts) if name else counter.get_total_flops())
            // 2,
            norm_macs=5 * sum(normalized[m] for m in part.modules()),
        )
        for name, part in [*_parts(model), ('', model)]
    }


def count_target(
    target: str, size: tuple[int, int] | None = None
) -> tuple[dict[str, Complexity], tuple[int, int]]:
    """Build a model and count it and its parts.

    Args:
        target: As for `load`.
        size: Height and width of the image in pixels. Default: as `load` says.

    Returns:
        What `count_parts` returns, and the size.

    Raises:
        UserError: As for `load`, or the model cannot be run on such an image.
    """
    model, default = load(target)
    size = size or default
    try:
        try:
            return count_parts(model, size), size
        except RuntimeError:
            # Models with queries look at values, which there are none of on `meta`.
            model, _ = load(target, 'cpu')
            return count_parts(model, size), size
    except Exception as error:  # code of the user's may be anywhere in it
        height, width = size
        raise UserError(
            f'{target} cannot be counted: {type(model).__name__} does not run on one '
            f'image of {height}x{width} (height x width) as in a test '
            f'({one_line(error)})'
        ) from error


def load(target: str, device: str = 'meta') -> tuple[nn.Module, tuple[int, int]]:
    """Build a model without weights.

    Args:
        target: A name from `mmmeta.list_models` or `mmmeta list --pretrained`, or a
            config file of MMDetection, MMSegmentation or MMPretrain.
        device: Where. Default: 'meta', on which nothing is computed.

    Returns:
        The model, and the height and width of the image for which figures were
        published: for a name, those of the checkpoint or 224x224; for a config, the
        size after the test pipeline's resizing or cropping, with 800x1280 for COCO's
        800x1333.

    Raises:
        UserError: The config cannot be read, has no model or one that cannot be built;
            or the name is unknown (the message lists the nearest).
    """
    if target.endswith('.py') or '::' in target or target in TRAINED:
        return _load_config(target, device)
    from mmmeta.models.build import create_model
    from mmmeta.weights.names import find_classifier

    arch, _, tag = target.partition('.')
    row = find_classifier(target) if tag else None
    with hush(), torch.device(device):
        model = create_model(arch, num_classes=row.num_classes if row else None)
    side = row.input_size if row else 224
    return model, (side, side)


class _Forward(nn.Module):
    """Runs a model as in testing, without steps that depend on values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        model: Any = self.model
        if hasattr(model, 'encode_decode'):
            model.encode_decode(images, [_shapes_of(images)])
            return
        if not hasattr(model, 'with_bbox'):  # no detector
            model(images)
            return
        two_stages = hasattr(model, 'roi_head')
        proposes = two_stages and model.with_rpn
        if proposes and hasattr(model.rpn_head, 'num_proposals'):
            two_stages = False  # its boxes are learned queries
        if not two_stages:
            # Masks of single boxes come after these are chosen.
            chooses = hasattr(model, 'bbox_head') and hasattr(model, 'mask_head')
            run = model.predict if proposes or chooses else model
            run(images, _samples_of(images))
            return
        detector: TwoStageDetector = model
        maps = detector.extract_feat(images)
        if proposes:
            detector.rpn_head(maps)
        roi = detector.roi_head
        _run_heads(roi, roi.bbox_head, roi.bbox_roi_extractor, NUM_BOXES, images)
        if roi.with_mask:
            extractor = roi.mask_roi_extractor or roi.bbox_roi_extractor
            _run_heads(roi, roi.mask_head, extractor, NUM_MASKS, images)


def _shapes_of(images: Tensor) -> dict[str, Any]:
    """Return what the host libraries note of images that no pipeline has changed."""
    size = tuple(images.shape[2:])
    names = ('ori_shape', 'img_shape', 'pad_shape', 'batch_input_shape')
    return dict.fromkeys(names, size) | dict(scale_factor=(1.0, 1.0))


def _samples_of(images: Tensor) -> list[Any]:
    from mmdet.structures import DetDataSample

    return [DetDataSample(metainfo=_shapes_of(images)) for _ in images]


def _run_heads(
    roi: 'BaseRoIHead',
    heads: nn.Module,
    extractors: nn.Module,
    number: int,
    like: Tensor,
) -> None:
    """Run the heads of one kind (one or a cascade) on `number` regions."""
    extractor: BaseRoIExtractor = extractors
    if isinstance(extractors, nn.ModuleList):
        extractor = extractors[0]
    size = extractor.roi_layers[0].output_size
    regions = like.new_empty(number, extractor.out_channels, *size)
    if roi.with_shared_head:
        regions = roi.shared_head(regions)
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        head(*[regions] * _number_of_inputs(head))


def _number_of_inputs(head: nn.Module) -> int:
    """Return how many arguments a head needs: two where boxes have their own branch."""
    parameters = inspect.signature(head.forward).parameters.values()
    return sum(p.default is p.empty for p in parameters)


def _run(
    model: nn.Module, size: tuple[int, int]
) -> tuple[FlopCounterMode, Counter[nn.Module]]:
    """Run the model; return the counter and each norm's number of output elements."""
    normalized: Counter[nn.Module] = Counter()

    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        normalized[module] += output.numel()

    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    handles = [m.register_forward_hook(hook) for m in norms]
    training = model.training
    # The counter takes a parameter that is an input, a query, for one with a history.
    trained = [p for p in model.parameters() if p.requires_grad]
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.no_grad(), counter:
            images = torch.zeros(1, image_channels(model), *size, device=device)
            model.eval()  # may return None, as MMDetection's backbones do
            _Forward(model)(images)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_()
        model.train(training)
    return counter, normalized


def _flops(module: nn.Module, name: str, counts: Mapping[str, Mapping]) -> int:
    """Return a module's count, or the sum of its children's if it was not called."""
    called = counts.get(f'{_Forward.__name__}.model.{name}')
    if called is not None:
        return sum(called.values())
    return sum(_flops(m, f'{name}.{n}', counts) for n, m in module.named_children())


def _parts(model: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts that `count_parts` names, except those without parameters."""
    for name, child in model.named_children():
        path = f'{prefix}{name}'
        if not any(True for _ in child.parameters()):
            continue
        if name in ('roi_head', 'stages'):
            yield from _parts(child, f'{path}.')
            continue
        yield path, child
        if name == 'backbone' and hasattr(child, 'stages'):
            yield from _parts(child.get_submodule('stages'), f'{path}.stages.')


def _load_config(path: str, device: str) -> tuple[nn.Module, tuple[int, int]]:
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(path)
    if not cfg.get('model'):
        raise UserError(f'config {path} has no model')
    scope = cfg.get('default_scope') or 'mmengine'
    init_default_scope(scope)
    model_cfg = dict(cfg.model, _scope_=scope)
    with hush(), building(path):
        try:
            with torch.device(device):
                model = MODELS.build(model_cfg)
        except RuntimeError:  # some backbones compute their drop rates with tensors
            model = MODELS.build(model_cfg).to(device)
    return model, _test_size(cfg)


def _test_size(cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width of images after the test pipeline."""
    sizes = {
        str(step['type']).split('.')[-1]: step.get('crop_size', step.get('scale'))
        for step in cfg.get('test_pipeline') or ()
    }
    size = sizes.get('CenterCrop') or sizes.get('Resize') or (224, 224)
    if isinstance(size, int):
        return size, size
    height, width = size[1], size[0]
    return PRINTED_SIZE.get((height, width), (height, width))
