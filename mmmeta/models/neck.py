"""The layers between the last map and the last layer of a classifier."""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mmmeta.archs import checks
from mmmeta.registry import MODELS


@MODELS.register_module()
class MetaFormerNeck(nn.Module):
    """Pooling, a layer norm and, with `ratio`, a hidden layer (2210.13452).

    The MetaFormer baselines normalize the pooled vector; ConvFormer and CAFormer
    then have a hidden layer with squared ReLU (sail-sg/metaformer, `MlpHead`).
    The last linear layer is MMPretrain's `LinearClsHead`.

    Args:
        dim: Channels C of the last map.
        ratio: Ratio of hidden features to C; None for no hidden layer. Default: None.
        dropout: Drop rate of the hidden features in training. Default: 0.0.
    """

    def __init__(
        self, dim: int, ratio: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.out_dim = dim
        if ratio is not None:
            self.out_dim = checks.hidden_channels('ratio', dim, ratio)
        self.fc1: nn.Linear | None = None
        self.mlp_norm: nn.LayerNorm | None = None
        if ratio is not None:
            self.fc1 = nn.Linear(dim, self.out_dim)
            trunc_normal_(self.fc1.weight, std=0.02)
            nn.init.zeros_(self.fc1.bias)
            self.mlp_norm = nn.LayerNorm(self.out_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Return a vector (B, out_dim) for the last map (B, C, H, W), in a tuple."""
        x = self.norm(maps[-1].mean((2, 3)))
        if self.fc1 is not None and self.mlp_norm is not None:
            x = self.mlp_norm(F.relu(self.fc1(x)).square())
        return (self.dropout(x),)
