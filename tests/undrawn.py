"""Building models without random initialization, which takes seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Leave weights uninitialized, for models on meta or loaded afterwards."""

    def keep(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return tensor

    with (
        mock.patch('timm.layers.weight_init._trunc_normal_', keep),  # any of timm's
        mock.patch('torch.nn.init.kaiming_uniform_', keep),  # PyTorch's own layers
    ):
        yield
