"""Fitting the weights of a stem to images of other than three channels."""

from torch import Tensor


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a stem's weight for another number of input channels.

    One channel gets the sum over the three, so that a grey image gives what its
    copy in three channels gave. Otherwise the three are repeated and scaled by
    3 / channels, which keeps the activations' size (as timm's
    `adapt_input_conv`).

    Args:
        weight: Floating point, (O, 3, kH, kW).
        channels: The number wanted, at least 1.

    Returns:
        A tensor of the same dtype, (O, channels, kH, kW).

    Raises:
        ValueError: The weight is not for three channels.
    """
    if weight.shape[1] != 3:
        raise ValueError(f'expected a weight for 3 channels, got {weight.shape[1]}')
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // 3)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (3 / channels)
