"""How many channels a model's images have, and images brought to that many."""

from typing import TYPE_CHECKING

from mmmeta.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def image_channels(model: 'nn.Module') -> int:
    """Return how many channels the images of a model have.

    This is the number of its MetaFormer, else of its data preprocessor's mean, else of
    its first convolution if that looks like one of images, else 3.
    """
    from torch import nn

    from mmmeta.models.metaformer import MetaFormer

    for module in model.modules():
        if isinstance(module, MetaFormer):
            return module.in_channels
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and mean.numel() > 1:  # one value may be for all channels
        return mean.numel()
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    # YOLOX's first convolution has stride 1 and takes four pixels at once.
    strided = first is not None and max(first.stride) > 1
    return first.in_channels if first is not None and strided else 3


def with_channels(image: 'np.ndarray', channels: int) -> 'np.ndarray':
    """Return an image with as many channels as a model takes.

    Args:
        image: (H, W, C), uint8, BGR first.
        channels: The model's. A color image is converted to gray for a model of one
            channel, as OpenCV reads it.

    Returns:
        (H, W, channels), or (H, W) for one channel, as mmcv returns gray images.

    Raises:
        InvalidValueError: The image has another number of channels.
    """
    import cv2

    found = image.shape[2]
    if channels == 1 and found == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if found != channels:
        raise InvalidValueError(
            f'the model takes images with {channels} channels, got {found}'
        )
    return image
