"""The implementations, built from the same weights.

A builder takes a case, a state_dict in mmmeta's layout and whether to normalize the
maps. It returns a float32 module on the CPU that takes images and returns maps.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import WHOLE, Case
from mmmeta.weights.state import parse, to_layout

State = Mapping[str, Tensor]


def mmmeta(
    case: Case, state: State, normalized: bool, **backbone_kwargs: Any
) -> nn.Module:
    """Return mmmeta's model."""
    from mmengine.registry import MODELS

    backbone = dict(type='mmmeta.MetaFormer', arch=case.arch, **backbone_kwargs)
    if case.task in WHOLE:
        return _whole(case, backbone, state)
    model = MODELS.build(dict(backbone, out_norm=normalized))
    model.load_state_dict(state if normalized else _stages(state))
    return model


def plain(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return mmmeta's model without its fast blocks."""
    return mmmeta(case, state, normalized, fast=False)


def recomputed(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return mmmeta's model with `recompute_mlp`."""
    return mmmeta(case, state, normalized, recompute_mlp=True)


def mmpretrain(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return MMPretrain's model; for raw maps, its output norms are removed."""
    import mmpretrain.models  # noqa: F401
    from mmpretrain.registry import MODELS

    # Its default freezes the stem, which would save it work.
    size = case.arch.split('_')[1]
    backbone = dict(arch=size, out_indices=[0, 2, 4, 6], frozen_stages=-1)
    if case.task in WHOLE:
        state = to_layout(parse(state), 'mmpretrain')
        return _whole(case, dict(backbone, type='mmpretrain.PoolFormer'), state)
    model = MODELS.build(dict(backbone, type='PoolFormer', _scope_='mmpretrain'))
    if not normalized:
        state = _stages(state)
        for i in model.out_indices:
            setattr(model, f'norm{i}', nn.Identity())
    state = to_layout(parse(state), 'mmpretrain')
    model.load_state_dict({k.removeprefix('backbone.'): v for k, v in state.items()})
    return model


def timm(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return timm's `features_only` model, which has no output norms.

    Raises:
        ValueError: Normalized maps were requested.
    """
    import timm

    if normalized:
        raise ValueError('timm has no norms of the maps')
    model = timm.create_model(case.arch, features_only=True)
    state = to_layout(parse(_stages(state)), 'timm')
    model.load_state_dict(
        {k.replace('stages.', 'stages_'): v for k, v in state.items()}
    )
    return model


class Floor(nn.Module):
    """A backbone without norms, pooling, scales and shortcuts.

    Args:
        backbone: A `MetaFormer`.
        activations: Keep those of the MLPs. Token mixers with weights are kept.
    """

    def __init__(self, backbone: nn.Module, activations: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage in backbone.stages:
            layers = [stage.downsample.conv]
            for block in stage.blocks:
                if [*block.token_mixer.parameters()]:
                    layers.append(block.token_mixer)
                mlp = block.mlp
                layers += [mlp] if activations else [mlp.fc1, mlp.fc2]
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def convolutions(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return the floor with only the convolutions."""
    return Floor(mmmeta(case, state, normalized), activations=False)


def activations(case: Case, state: State, normalized: bool) -> nn.Module:
    """Return the floor with the activations between the convolutions."""
    return Floor(mmmeta(case, state, normalized), activations=True)


def draw_weights(case: Case) -> dict[str, Tensor]:
    """Return weights in mmmeta's layout, the same every time.

    The backbone's are random so that no scale hides a branch: layer scales are 0.5, not
    1e-5, else outputs would be equal whatever the blocks compute.
    """
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    backbone = dict(type='mmmeta.MetaFormer', arch=case.arch)
    if case.task in WHOLE:
        model = _whole(case, backbone).model
    else:
        model = MODELS.build(backbone)
    with torch.no_grad():
        for name, value in getattr(model, 'backbone', model).named_parameters():
            if value.dim() > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif 'layer_scale' in name:
                value.fill_(0.5)
            elif name.endswith('bias'):
                value.normal_(std=0.05)
            else:
                value.normal_(1, 0.1)
    return model.state_dict()


class Tensors(nn.Module):
    """A detector or segmentor that takes images and returns the maps of its head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x, mode='tensor')


def _whole(case: Case, backbone: dict, state: State | None = None) -> Tensors:
    """Build the case's detector or segmentor around `backbone`.

    Raises:
        RuntimeError: `state` does not fit.
    """
    from mmengine.hub import get_config
    from mmengine.registry import MODELS

    folder, start = WHOLE[case.task]
    cfg = get_config(f'mmmeta::{folder}/{start}_{case.arch}.py').model
    if case.task == 'retinanet' and backbone['type'] == 'mmmeta.MetaFormer':
        backbone = dict(backbone, fork_last3=True)
    cfg.backbone = backbone
    model = MODELS.build(cfg)
    if state is not None:
        missing, unexpected = model.load_state_dict(state, strict=False)
        # RetinaNet does not use the first map, and mmmeta's has no norm there.
        wrong = [k for k in missing if not k.startswith('backbone.norm0.')] + unexpected
        if wrong:
            raise RuntimeError(f'the weights do not fit at {wrong[0]}')
    return Tensors(model)


def _stages(state: State) -> dict[str, Tensor]:
    """Return the weights without the norms of the maps."""
    return {key: value for key, value in state.items() if key.startswith('stages.')}
