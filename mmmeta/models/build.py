"""Classifiers by name."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from timm.layers import trunc_normal_
from torch import nn

from mmmeta.errors import InvalidValueError, MissingLibraryError
from mmmeta.models.families import FAMILIES
from mmmeta.models.metaformer import MetaFormer
from mmmeta.weights.loading import Checkpoint, load_classifier
from mmmeta.weights.locate import SCHEME, locate
from mmmeta.weights.names import find_classifier, list_models, nearest
from mmmeta.weights.reading import read_state_dict
from mmmeta.weights.state import parse

__all__ = ['create_model', 'list_models']

MLP_HEAD_RATIO = 4


def create_model(
    name: str,
    pretrained: bool = False,
    checkpoint: Checkpoint | None = None,
    num_classes: int | None = None,
    **backbone_kwargs: Any,
) -> nn.Module:
    """Build an image classifier, in training mode.

    Args:
        name: Family and size such as 'poolformer_s12', see `list_models`; with a
            tag, such as 'caformer_s18.sail_in1k', published weights are loaded.
        pretrained: Load the weights published under the name; without a tag, those
            of its first tag. Default: False.
        checkpoint: Load these weights instead, strictly: a path, a URL,
            mmmeta://NAME or a state_dict, in any layout that `mmmeta.weights`
            knows. Default: None.
        num_classes: Size of the last layer. If given, a checkpoint may have another
            number of classes or no classifier; the last layer is then new. Default:
            the published checkpoint's, else 1000.
        **backbone_kwargs: Passed to the backbone, e.g. `drop_path_rate`, `with_cp`.

    Returns:
        An MMPretrain `ImageClassifier`; `model(images)` takes normalized RGB images
        (B, 3, H, W), float32, and returns logits (B, num_classes).

    Raises:
        MissingLibraryError: MMPretrain is not installed; names the extra to install.
        InvalidValueError: No such model (a `ValueError`); lists the nearest names.
        CheckpointError: The weights cannot be obtained or do not fit.
    """
    arch, _, tag = name.partition('.')
    family, size = _find_arch(arch)
    published = find_classifier(name) if tag or pretrained else None
    if checkpoint is None and published is not None:
        checkpoint = SCHEME + published.name
    default = published.num_classes if published else 1000
    model = _build(family, size, num_classes or default, backbone_kwargs)
    if checkpoint is not None:
        load_classifier(model, checkpoint, new_head=num_classes is not None)
    # A Runner calls init_weights() again, which would re-initialize the head.
    for module in model.modules():
        if isinstance(module, BaseModule):
            module.is_init = True
    return model


def create_with_head(name: str, checkpoint: str) -> nn.Module:
    """Build an image classifier with as many classes as its weights have.

    Args:
        name: Family and size such as 'poolformer_s12'.
        checkpoint: A path, a URL or mmmeta://NAME.

    Returns:
        As `create_model`.

    Raises:
        CheckpointError: The weights cannot be obtained, do not fit, or have no
            classifier.
    """
    state = read_state_dict(locate(checkpoint))
    head = parse(state).outer.get('head.fc.weight')
    num_classes = None if head is None else len(head)
    return create_model(name, checkpoint=state, num_classes=num_classes)


def _find_arch(name: str) -> tuple[type[MetaFormer], str]:
    for family in FAMILIES:
        size = name.removeprefix(family.family.lower() + '_')
        if size != name and size in family.archs:
            return family, size
    near = nearest(name, list_models())
    raise InvalidValueError(
        f'unknown model {name!r}'
        + (f'; nearest: {", ".join(near)}' if near else '')
        + ". mmmeta.list_models() lists all and takes patterns such as '*former_s12'"
    )


def classifier_config(
    family: type[MetaFormer],
    arch: str | Mapping,
    num_classes: int = 1000,
    **backbone_kwargs: Any,
) -> dict[str, Any]:
    """Return the MMPretrain config of a family's classifier, as published.

    Args:
        family: A member of `mmmeta.models.FAMILIES`.
        arch: As for the family.
        num_classes: Size of the last layer. Default: 1000.
        **backbone_kwargs: Passed to the backbone.
    """
    backbone = dict(
        type=f'mmmeta.{family.__name__}', arch=arch, fork_feat=False, **backbone_kwargs
    )
    row = family.archs[arch] if isinstance(arch, str) else family(arch).arch
    in_channels = row.dims[-1]
    if row.final_norm is None:
        ratio = MLP_HEAD_RATIO if row.mlp_head else None
        neck = dict(type='mmmeta.MetaFormerNeck', dim=in_channels, ratio=ratio)
        in_channels *= ratio or 1
    else:
        neck = dict(type='GlobalAveragePooling')
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=neck,
        head=dict(
            type='LinearClsHead',
            num_classes=num_classes,
            in_channels=in_channels,
            init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
        ),
        data_preprocessor=dict(
            num_classes=num_classes,
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
        ),
    )


def _build(
    family: type[MetaFormer], size: str, num_classes: int, kwargs: Mapping[str, Any]
) -> nn.Module:
    try:
        import mmpretrain.models  # noqa: F401
        from mmpretrain.registry import MODELS
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            'create_model builds MMPretrain classifiers, and mmpretrain cannot be '
            f"imported ({error}): pip install 'mmmeta-backbones[onedl]'"
        ) from error
    except Exception as error:
        raise MissingLibraryError(
            f'mmpretrain cannot be imported ({error}); if transformers is installed, '
            'it loads multimodal models, which do not work with transformers 5: '
            'remove it or install an older version'
        ) from error
    config = classifier_config(family, size, num_classes, **kwargs)
    # Without an explicit scope, a Runner's default scope would be searched.
    model = MODELS.build(dict(config, _scope_='mmpretrain'))
    trunc_normal_(model.head.fc.weight, std=0.02)
    nn.init.zeros_(model.head.fc.bias)
    return model
