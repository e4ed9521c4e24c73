"""Token mixers: what differs between the members of the MetaFormer family.

A token mixer is an `nn.Module` built with the stage's channels as `dim` and the
rest of its config as keywords; it maps (B, C, H, W) to (B, C, H, W).
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.registry import TOKEN_MIXERS


def build_token_mixer(cfg: Mapping, dim: int) -> nn.Module:
    """Build a registered token mixer for `dim` channels.

    Raises:
        ValueError: No such mixer; the message names those there are.
    """
    kind = cfg.get('type')
    if isinstance(kind, str) and TOKEN_MIXERS.get(kind) is None:
        raise ValueError(
            f'unknown token mixer {kind!r}; registered are '
            f'{sorted(TOKEN_MIXERS.module_dict)}. A mixer of your own needs '
            '@TOKEN_MIXERS.register_module() (from mmmeta.registry) and, in a '
            'config, its file in custom_imports'
        )
    # The scope is given, else the host library's default scope would be searched.
    return TOKEN_MIXERS.build(dict(cfg, dim=dim, _scope_='mmmeta'))


@TOKEN_MIXERS.register_module()
class Pooling(nn.Module):
    """Average pooling minus the input (2111.11418, eq. 4).

    The border is averaged over the positions inside the image only.

    Args:
        dim: Number of channels; unused, pooling has no parameters.
        pool_size: Side of the window in positions, odd. Default: 3.
    """

    def __init__(self, dim: int, pool_size: int = 3) -> None:
        super().__init__()
        if pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f'pool_size must be odd and positive, got {pool_size}')
        self.pool_size = pool_size

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(
            x, self.pool_size, 1, self.pool_size // 2, count_include_pad=False
        )
        return pooled - x

    def extra_repr(self) -> str:
        return f'pool_size={self.pool_size}'
