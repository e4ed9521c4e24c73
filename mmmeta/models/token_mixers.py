"""Token mixers, the main difference between the members of the MetaFormer family.

A token mixer is an `nn.Module` built with the stage's channels as `dim` and the rest
of its config as keyword arguments; it maps (B, C, H, W) to (B, C, H, W).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmeta.archs import checks
from mmmeta.archs.arch import NUM_STAGES
from mmmeta.errors import InvalidTypeError, InvalidValueError
from mmmeta.models.layers import build_act
from mmmeta.registry import TOKEN_MIXERS


def build_token_mixer(cfg: Mapping, dim: int) -> nn.Module:
    """Build a registered token mixer for `dim` channels.

    Raises:
        ValueError: No such mixer; the message lists the registered ones.
        TypeError: `cfg` is not a dict with a type, or has an argument that the mixer
            does not take.
    """
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    if not isinstance(kind, str) and not callable(kind):
        raise InvalidTypeError(
            "token_mixer must be a dict such as dict(type='Pooling', pool_size=3), or "
            f'{NUM_STAGES} of them, one a stage; got {cfg!r}'
        )
    mixer = TOKEN_MIXERS.get(kind) if isinstance(kind, str) else kind
    if mixer is None:
        raise InvalidValueError(
            f'unknown token mixer {kind!r}; registered are '
            f'{sorted(TOKEN_MIXERS.module_dict)}. Register your own mixer with '
            '@TOKEN_MIXERS.register_module() (from mmmeta.registry) and, in a '
            'config, name its file in custom_imports'
        )
    given = [name for name in cfg if name not in ('type', '_scope_')]
    checks.keywords(f'the token mixer {kind}', given, mixer)
    # Without an explicit scope, the host library's default scope would be searched.
    return TOKEN_MIXERS.build(dict(cfg, dim=dim, _scope_='mmmeta'))


@TOKEN_MIXERS.register_module()
class Pooling(nn.Module):
    """Average pooling minus the input (2111.11418, eq. 4).

    At the border, only positions inside the image are averaged.

    Args:
        dim: Number of channels; unused, pooling has no parameters.
        pool_size: Side of the window in positions, odd. Default: 3.
    """

    def __init__(self, dim: int, pool_size: int = 3) -> None:
        super().__init__()
        self.pool_size = checks.odd('pool_size', pool_size)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(
            x, self.pool_size, 1, self.pool_size // 2, count_include_pad=False
        )
        return pooled - x

    def extra_repr(self) -> str:
        return f'pool_size={self.pool_size}'


@TOKEN_MIXERS.register_module()
class Identity(nn.Identity):
    """No mixing at all (IdentityFormer, 2210.13452, section 3.1).

    Args:
        dim: Number of channels; unused.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()


@TOKEN_MIXERS.register_module()
class RandomMixing(nn.Module):
    """A frozen random matrix over the tokens (RandFormer, 2210.13452, eq. 2).

    The reference has one matrix for one size: 14x14 tokens in stage 3, 7x7 in
    stage 4, for images of 224x224. At that size both modes are equal to it.

    Args:
        dim: Number of channels; unused, the matrix is shared by all.
        size: Side of the square of tokens that the matrix is for.
        resize: What to do at other sizes. 'window' applies the matrix to windows of
            size x size tokens, zero-padded and cropped: it needs no memory beyond the
            matrix. 'resample' interpolates it to the input's (H*W, H*W), with rows
            summing to one: 4 * (H*W)**2 bytes in each block, 70 MB for 4200 tokens
            (stage 3 of 800x1344). Default: 'window'.
    """

    random_matrix: Tensor

    def __init__(self, dim: int, size: int = 14, resize: str = 'window') -> None:
        super().__init__()
        if resize not in ('window', 'resample'):
            raise InvalidValueError(
                f"resize must be 'window' or 'resample', got {resize!r}"
            )
        self.size = size = checks.integer('size', size, 1)
        self.resize = resize
        # A buffer has no gradient, and optimizers do not update it.
        matrix = torch.rand(size**2, size**2).softmax(-1)
        self.register_buffer('random_matrix', matrix)

    def forward(self, x: Tensor) -> Tensor:
        if self.resize == 'window':
            tokens = partition(x, self.size)
            return merge(self.random_matrix @ tokens, self.size, x.shape)
        matrix = self._resampled(*x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        return (matrix @ tokens).transpose(1, 2).reshape(x.shape)

    def _resampled(self, height: int, width: int) -> Tensor:
        n = self.size
        if (height, width) == (n, n):
            return self.random_matrix
        # Rows and columns are both maps of n x n tokens.
        matrix = self.random_matrix.float().view(n * n, 1, n, n)
        matrix = F.interpolate(matrix, (height, width), mode='bilinear')
        matrix = matrix.flatten(1).t().view(height * width, 1, n, n)
        matrix = F.interpolate(matrix, (height, width), mode='bilinear')
        matrix = matrix.flatten(1).t()
        return (matrix / matrix.sum(-1, keepdim=True)).to(self.random_matrix.dtype)

    def extra_repr(self) -> str:
        return f'size={self.size}, resize={self.resize!r}'


@TOKEN_MIXERS.register_module()
class SepConv(nn.Module):
    """Pointwise, depthwise, pointwise convolution.

    ConvFormer's (2210.13452, eq. 4) by default; UniFormer's local relation
    aggregator (2201.09450, eq. 4) with kernel 5, no expansion or activation.

    Args:
        dim: Number of channels C.
        kernel_size: Side of the depthwise kernel in positions, odd. Default: 7.
        expansion: Ratio of hidden channels to C. Default: 2.
        act: Name of the activation after the first layer. Default: 'StarReLU'.
        bias: Whether the three layers have biases. Default: False.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        expansion: float = 2,
        act: str = 'StarReLU',
        bias: bool = False,
    ) -> None:
        super().__init__()
        checks.odd('kernel_size', kernel_size)
        checks.switch('bias', bias)
        hidden = checks.hidden_channels('expansion', dim, expansion)
        self.pwconv1 = nn.Conv2d(dim, hidden, 1, bias=bias)
        self.act1 = build_act(act)
        self.dwconv = nn.Conv2d(
            hidden,
            hidden,
            kernel_size,
            padding=kernel_size // 2,
            groups=hidden,
            bias=bias,
        )
        self.pwconv2 = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwconv2(self.dwconv(self.act1(self.pwconv1(x))))


@TOKEN_MIXERS.register_module()
class Attention(nn.Module):
    """Multi-head self-attention, over all positions or within windows.

    `scaled_dot_product_attention` never materializes the matrix of scores.
    Windows work as in UniFormer's dense models: the map is padded with zeros at its
    right and bottom border, and padded positions are attended to like others.

    Args:
        dim: Number of channels C, a multiple of `head_dim`.
        head_dim: Channels of each head. Default: 32.
        bias: Whether the two linear layers have biases. Default: False.
        window_size: Side of the windows in positions; None attends to the whole
            map. The parameters are the same. Default: None.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int = 32,
        bias: bool = False,
        window_size: int | None = None,
    ) -> None:
        super().__init__()
        checks.switch('bias', bias)
        if dim % checks.integer('head_dim', head_dim, 1):
            raise InvalidValueError(f'head_dim {head_dim} does not divide dim {dim}')
        if window_size is not None:
            checks.integer('window_size', window_size, 1)
        self.head_dim = head_dim
        self.window_size = window_size
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.proj = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.window_size is not None:
            x = pad_to_multiple(x, self.window_size)
        x = self.attend(self.qkv(x))
        return self.proj(x[:, :, :height, :width])

    def attend(self, qkv: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(head_dim)) v, (B, C, H, W).

        Args:
            qkv: (B, 3 * C, H, W), padded to whole windows.
        """
        tokens = partition(qkv, self.window_size)
        heads = tokens.unflatten(2, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*heads.unbind(0))
        return merge(x.transpose(1, 2).flatten(2), self.window_size, qkv.shape)

    def extra_repr(self) -> str:
        return f'head_dim={self.head_dim}, window_size={self.window_size}'


def pad_to_multiple(x: Tensor, size: int) -> Tensor:
    """Pad (B, C, H, W) with zeros at the right and bottom border."""
    bottom, right = -x.shape[2] % size, -x.shape[3] % size
    # When compiling, one graph for every size; else no needless copy.
    if torch.compiler.is_compiling() or bottom or right:
        return F.pad(x, (0, right, 0, bottom))
    return x


def partition(x: Tensor, size: int | None) -> Tensor:
    """Cut a map into windows of tokens.

    Args:
        x: (B, C, H, W); padded with zeros if `size` does not divide H and W.
        size: Side of a window; None for one window that covers the whole map.

    Returns:
        (B * windows, tokens of a window, C).
    """
    if size is None:
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    x = pad_to_multiple(x, size).permute(0, 2, 3, 1)
    batch, height, width, dim = x.shape
    x = x.view(batch, height // size, size, width // size, size, dim)
    return x.transpose(2, 3).reshape(-1, size * size, dim)


def merge(tokens: Tensor, size: int | None, shape: Sequence[int]) -> Tensor:
    """Reassemble windows of tokens into a map: the inverse of `partition`.

    Args:
        tokens: (B * windows, tokens of a window, C).
        size: Side of a window, or None.
        shape: (B, any, H, W), the shape of the original map.

    Returns:
        (B, C, H, W), without the padding.
    """
    batch, _, height, width = shape
    dim = tokens.shape[-1]
    if size is None:
        return tokens.view(batch, height, width, dim).permute(0, 3, 1, 2)
    # Not -(-height // size): ONNX rounds that division towards zero.
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    x = tokens.view(batch, rows, columns, size, size, dim).transpose(2, 3)
    x = x.reshape(batch, rows * size, columns * size, dim).permute(0, 3, 1, 2)
    return x[:, :, :height, :width]
