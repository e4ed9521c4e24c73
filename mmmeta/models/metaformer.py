"""The MetaFormer backbone: one architecture, with settings for each member.

    image (B, 3, H, W)
      -> for each stage i of 4: downsample -> depth_i x block -> [norm_i] -> out_i
    block:  x = x + depthwise_conv3x3(x)                      (UniFormer only)
            x = res_scale1 * x + layer_scale1 * drop_path(token_mixer(norm1(x)))
            x = res_scale2 * x + layer_scale2 * drop_path(mlp(norm2(x)))

Sources: "MetaFormer Is Actually What You Need for Vision" (2111.11418, section
3.1 and figure 2), "MetaFormer Baselines for Vision" (2210.13452, section 2),
"UniFormer" (2201.09450, section 3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmeta.archs import checks
from mmmeta.archs.arch import NUM_STAGES, Arch, override, resolve_arch
from mmmeta.archs.families import ARCHS
from mmmeta.errors import InvalidValueError
from mmmeta.models.arguments import (
    blocks_to_checkpoint,
    check_dtype,
    check_images,
    check_init_cfg,
    check_mixed,
    check_out_indices,
    read_switch,
)
from mmmeta.models.layers import build_downsample, build_norm
from mmmeta.models.mlp import Mlp
from mmmeta.models.token_mixers import Attention, build_token_mixer
from mmmeta.ops.autograd import recompute, run_modules
from mmmeta.ops.layout import hand_on, take_in
from mmmeta.registry import MODELS
from mmmeta.weights.loading import Backbone


class MetaFormerBlock(nn.Module):
    """A token mixer and an MLP, each with a norm before it and a shortcut around it.

    Args:
        arch: The architecture settings.
        stage: Index of the stage, 0 to 3.
        index: Index of the block in its stage.
        drop_path: Probability that a branch is dropped for a sample. Default: 0.
        recompute_mlp: Recompute the MLP's hidden maps in the backward pass instead of
            keeping them. Default: False.
    """

    # Added by `register_parameter`.
    layer_scale1: Tensor | None
    layer_scale2: Tensor | None
    res_scale1: Tensor | None
    res_scale2: Tensor | None

    def __init__(
        self,
        arch: Arch,
        stage: int,
        index: int,
        drop_path: float = 0.0,
        recompute_mlp: bool = False,
    ) -> None:
        super().__init__()
        self.recompute_mlp = recompute_mlp
        dim = arch.dims[stage]
        norm = arch.norm[stage]
        mixer = arch.token_mixer[stage]
        if isinstance(mixer, (list, tuple)) and mixer:
            mixer = mixer[index % len(mixer)]
        self.pos_embed = (
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if arch.pos_embed else None
        )
        self.norm1 = build_norm(norm, dim)
        self.token_mixer = build_token_mixer(mixer, dim)
        self.norm2 = build_norm(norm, dim)
        self.mlp = Mlp(dim, arch.mlp_ratio[stage], arch.act[stage], arch.mlp_bias)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        for name in ('layer_scale', 'res_scale'):
            init = getattr(arch, name)[stage]
            for branch in '12':
                scale = None
                if init is not None:
                    scale = nn.Parameter(torch.full((dim,), float(init)))
                self.register_parameter(name + branch, scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        mixed = self.drop_path(run_mixer(self.token_mixer, self.norm1(x)))
        x = scaled(x, self.res_scale1) + scaled(mixed, self.layer_scale1)
        run = recompute if self.recompute_mlp else run_modules
        hidden = self.drop_path(run(x, self.norm2, self.mlp))
        return scaled(x, self.res_scale2) + scaled(hidden, self.layer_scale2)


def run_mixer(mixer: nn.Module, x: Tensor) -> Tensor:
    """Return mixer(x) for a map (B, C, H, W), and see that it is such a map."""
    y = mixer(x)
    check_mixed(y, x, mixer)
    return y


def scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """Return `scale * x` for a scale of shape (C,), x itself for None."""
    return x if scale is None else x * scale.view(-1, 1, 1)


class MetaFormerStage(nn.Module):
    """A downsampling layer followed by blocks.

    Args:
        arch: The architecture settings.
        stage: Index of the stage, 0 to 3.
        in_dim: Number of input channels.
        drop_path: Drop rate of each of the `depths[stage]` blocks.
        with_cp: How many blocks, counted from the first, recompute their
            activations in the backward pass instead of keeping them.
        recompute_mlp: As for `MetaFormerBlock`.
        block: Class of the blocks. Default: `MetaFormerBlock`.
    """

    def __init__(
        self,
        arch: Arch,
        stage: int,
        in_dim: int,
        drop_path: Sequence[float],
        with_cp: int = 0,
        recompute_mlp: bool = False,
        block: type[MetaFormerBlock] = MetaFormerBlock,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.downsample = build_downsample(
            arch.downsample[stage], in_dim, arch.dims[stage]
        )
        self.blocks = nn.ModuleList(
            block(arch, stage, i, rate, recompute_mlp)
            for i, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for i, block in enumerate(self.blocks):
            run = recompute if i < self.with_cp and self.training else run_modules
            x = run(x, block)
        return x


@MODELS.register_module()
class MetaFormer(Backbone):
    """A MetaFormer as a backbone for dense prediction or classification.

    Takes images (B, 3, H, W) with H, W >= 32, divisible by 32 or not, and returns
    a tuple of maps. With `fork_feat`, feature i is (B, dims[i], H_i, W_i) at
    stride 4, 8, 16, 32 (`mmmeta.ops.layout` decides the memory format); without,
    only the last map, normalized if the family's classifier expects that.

    Args:
        arch: For a family (`PoolFormer`, ...) the size, such as 's12'; for
            `MetaFormer` itself, family and size, such as 'poolformer_s12'; or a
            dict with the fields of `mmmeta.archs.arch.Arch`.
        fork_feat: True for stage outputs, False for the last map. Default: True.
        fork_last3: Do not normalize the first stage's output, for heads that do not
            use it (an FPN with `start_level=1`): its norm would get no gradient,
            which DDP rejects. None reads the environment variable FORK_LAST3 (1 or
            0; unset means 0). Default: None.
        out_indices: Stages to return with `fork_feat`, ascending; negative indices
            count from the end. Norms exist only for these, and later stages are not
            built. Default: (0, 1, 2, 3).
        out_norm: Normalize the outputs. Default: True.
        token_mixer: Config of a registered token mixer, or a list of four, one per
            stage, to replace the arch's. Default: None.
        norm_cfg: Config of the blocks' norms (see `build_norm`), or a list of four,
            to replace the arch's. Default: None.
        in_channels: Channels of the images. A pretrained 3-channel stem is summed
            for 1 channel, so that a gray image gives the same result as its RGB
            copy, and repeated and rescaled for other numbers. Default: 3.
        drop_path_rate: Drop rate of the last block's branches; the rate grows
            linearly from 0 at the first block. Default: 0.0.
        frozen_stages: -1 trains everything; 0 freezes the stem (the downsampling of
            the first stage); k > 0 freezes the stem and the first k stages.
            Output norms are not pretrained and never frozen. Default: -1.
        norm_eval: Keep batch norms in evaluation mode while training.
            Default: False.
        with_cp: Recompute block activations in the backward pass to save memory:
            True for all blocks, or four numbers of blocks, one per stage; numbers
            beyond a stage's depth mean all of its blocks. Default: False.
        recompute_mlp: Recompute only the hidden maps of the MLPs, which are most of
            what training keeps, in a fraction of the time. Default: False.
        fast: Use `mmmeta.models.fast` for plain inference on a CPU, with the same
            parameters and results. False builds the plain blocks. None reads the
            environment variable MMMETA_FAST (1 or 0; unset means 1). Default: None.
        init_cfg: MMEngine's initialization config.
            `dict(type='Pretrained', checkpoint=...)` loads strictly, in any layout
            that `mmmeta.weights` knows. Default: None.

    Raises:
        ValueError: An unknown arch or an invalid value; the message lists the choices.
        TypeError: A value of a wrong type. It is a `ValueError` too.
    """

    family = 'MetaFormer'
    base: Mapping[str, Any] = {}
    arch: Arch
    archs: Mapping[str, Arch] = ARCHS

    def __init__(
        self,
        arch: str | Mapping,
        fork_feat: bool = True,
        fork_last3: bool | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        token_mixer: Mapping | Sequence[Mapping] | None = None,
        norm_cfg: Mapping | Sequence[Mapping] | None = None,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool | Sequence[int] = False,
        recompute_mlp: bool = False,
        fast: bool | None = None,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = override(
            resolve_arch(arch, self.archs, self.base, self.family),
            token_mixer=token_mixer,
            norm=norm_cfg,
        )
        if not 0 <= checks.number('drop_path_rate', drop_path_rate) < 1:
            raise InvalidValueError(
                f'drop_path_rate must be in [0, 1), got {drop_path_rate}'
            )
        self.in_channels = checks.integer('in_channels', in_channels, 1)
        self.fork_feat = checks.switch('fork_feat', fork_feat)
        self.out_indices = check_out_indices(out_indices, self.fork_feat)
        self.frozen_stages = checks.integer(
            'frozen_stages', frozen_stages, -1, NUM_STAGES
        )
        self.norm_eval = checks.switch('norm_eval', norm_eval)
        checks.switch('out_norm', out_norm)
        checks.switch('recompute_mlp', recompute_mlp)
        check_init_cfg(init_cfg)

        blocks = blocks_to_checkpoint(with_cp, self.arch)
        block = _block_class(read_switch('fast', fast, 'MMMETA_FAST', default=True))
        self._build_stages(drop_path_rate, blocks, recompute_mlp, block)
        last3 = read_switch('fork_last3', fork_last3, 'FORK_LAST3', default=False)
        self._build_norms(out_norm, last3)
        self.reset_parameters()
        self._freeze()

    def _build_stages(
        self,
        drop_path_rate: float,
        with_cp: Sequence[int],
        recompute_mlp: bool,
        block: type[MetaFormerBlock],
    ) -> None:
        last = max(sum(self.arch.depths) - 1, 1)
        rates = [drop_path_rate * k / last for k in range(sum(self.arch.depths))]
        in_dim = self.in_channels
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            start = sum(self.arch.depths[:i])
            stage_rates = rates[start : start + self.arch.depths[i]]
            self.stages.append(
                MetaFormerStage(
                    self.arch, i, in_dim, stage_rates, with_cp[i], recompute_mlp, block
                )
            )
            in_dim = self.arch.dims[i]

    def _build_norms(self, out_norm: bool, fork_last3: bool) -> None:
        """Add `norm{i}` for each dense output, or `norm` for the last map."""
        if not self.fork_feat:
            cfg = self.arch.final_norm if out_norm else None
            self.norm = build_norm(cfg, self.arch.dims[-1])
            return
        for i in self.out_indices:
            wanted = out_norm and not (fork_last3 and i == 0)
            cfg = self.arch.out_norm if wanted else None
            self.add_module(f'norm{i}', build_norm(cfg, self.arch.dims[i]))

    def reset_parameters(self) -> None:
        """Initialize the weights as the reference does (`Arch.init`)."""
        blocks = [m for m in self.modules() if isinstance(m, MetaFormerBlock)]
        roots: dict[str, list[nn.Module]] = {
            'mlp': [block.mlp for block in blocks],
            'attention': [
                part
                for block in blocks
                if isinstance(block.token_mixer, Attention)
                for part in (block.token_mixer, block.mlp)
            ],
            'all': [self],
        }
        for root in roots[self.arch.init]:
            for module in root.modules():
                if isinstance(module, nn.Conv2d):
                    trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for images (B, in_channels, H, W) with H, W >= 32."""
        check_images(x, self.in_channels)
        check_dtype(x, self.stages[0])
        x = take_in(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.fork_feat and i in self.out_indices:
                outs.append(hand_on(getattr(self, f'norm{i}')(x)))
        return tuple(outs) if self.fork_feat else (self.norm(x),)

    def train(self, mode: bool = True) -> 'MetaFormer':
        """Set training mode; frozen stages and, with `norm_eval`, batch norms stay
        in evaluation mode. Returns the module."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stages[0].downsample, *self.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's layer for layer-wise learning rate decay.

        The stem is layer 0, every block is a layer (a downsampling belongs to the
        block after it), and output norms and heads are the last layer.

        Args:
            param_name: The parameter's name in the model.
            prefix: The backbone's prefix in that name, such as 'backbone.'.

        Returns:
            The layer's index and the number of layers.
        """
        num_layers = sum(self.arch.depths) + 2
        parts = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or parts[0] != 'stages':
            return num_layers - 1, num_layers
        stage = int(parts[1])
        if parts[2] == 'downsample':
            return (sum(self.arch.depths[:stage]) + 1 if stage else 0), num_layers
        return sum(self.arch.depths[:stage]) + int(parts[3]) + 1, num_layers


def _block_class(fast: bool) -> type[MetaFormerBlock]:
    if not fast:
        return MetaFormerBlock
    from mmmeta.models.fast import FastBlock  # imports this file

    return FastBlock
