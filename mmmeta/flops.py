"""Parameters and multiply-accumulates, counted as the papers count them."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmmeta.models.layers import ChannelLayerNorm, MapLayerNorm

NORMS = (_BatchNorm, ChannelLayerNorm, MapLayerNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        params: Trainable and frozen parameters.
        frozen: Values in buffers that the paper counts apart (RandFormer's
            matrices).
        macs: Multiply-accumulates of convolutions, linear layers and attention
            (its two matrix products included). Pooling, activations, scales and
            norms are not counted.
        norm_macs: What fvcore counts for the norms, five for each element. The
            figures of PoolFormer and UniFormer include it; those of the MetaFormer
            baselines do not, since fvcore does not see norms made of simple
            operations.
    """

    params: int
    frozen: int
    macs: int
    norm_macs: int


def count(model: nn.Module, size: tuple[int, int] = (224, 224)) -> Complexity:
    """Count a backbone or a classifier for one image of (height, width) `size`.

    The model is run once, in evaluation mode, on the device it is on; on
    `torch.device('meta')` nothing is computed.
    """
    norm_elements = 0

    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        nonlocal norm_elements
        norm_elements += output.numel()

    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    handles = [m.register_forward_hook(hook) for m in norms]
    training = model.training
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(torch.empty(1, 3, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    frozen = sum(b.numel() for n, b in model.named_buffers() if 'random_matrix' in n)
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        frozen=frozen,
        macs=counter.get_total_flops() // 2,
        norm_macs=5 * norm_elements,
    )
