"""The channel MLP of a block."""

from torch import Tensor, nn

from mmmeta.archs import checks
from mmmeta.models.layers import build_act


class Mlp(nn.Module):
    """Two pointwise layers with an activation between them (2111.11418, eq. 3).

    They are 1x1 convolutions, which are twice as fast as `nn.Linear` here on a CPU.

    Args:
        dim: Number of input and output channels C.
        ratio: Ratio of hidden channels to C. Default: 4.
        act: Name of the activation. Default: 'GELU'.
        bias: Whether both layers have a bias. Default: True.

    Raises:
        ValueError: An unknown activation, or a ratio that leaves no hidden channel.
    """

    def __init__(
        self, dim: int, ratio: float = 4, act: str = 'GELU', bias: bool = True
    ) -> None:
        super().__init__()
        hidden = checks.hidden_channels('mlp_ratio', dim, ratio)
        self.fc1 = nn.Conv2d(dim, hidden, 1, bias=bias)
        self.act = build_act(act)
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
