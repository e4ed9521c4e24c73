"""Layer normalization of whole maps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def map_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Return x normalized over (C, H, W), scaled and shifted by channel.

    Args:
        x: (B, C, H, W).
        weight: (C,).
        bias: (C,) or None.
        eps: Added to the variance.
    """
    if x.device.type == 'cpu' and not x.requires_grad:
        # The channels_last kernel of PyTorch 2.13 and older crashes in the backward
        # pass if the input needs no gradient, e.g. after a frozen stage.
        trains = weight.requires_grad and torch.is_grad_enabled()
        x = x.contiguous() if trains else x
    return F.group_norm(x, 1, weight, bias, eps)
