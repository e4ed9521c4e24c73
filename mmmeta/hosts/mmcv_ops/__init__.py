"""mmcv's operators without compilation: a replacement for `mmcv._ext` on torchvision.

`mmmeta_finder` provides this package for `import mmcv._ext` if mmcv was installed
without its compiled operators. The functions have the signatures of mmcv's own
(mmcv/ops/csrc/pytorch/pybind.cpp; tensors by position, numbers by name), write into the
given output tensors like those, and have the results of mmcv 2.3.6 on any device.
Half precision is computed in float32, float64 in float64.

These are the operators that models of MMDetection, MMSegmentation and MMPretrain use,
except `deform_roi_pool` (two configs of MMDetection), `line_nms` (CLRerNet) and mmcv's
own SyncBN. Other names can be imported, but raise NotImplementedError when called.

Shapes: maps (B, C, H, W); regions `rois` (K, 5), the image's index, then x1, y1, x2, y2
in its pixels; boxes (N, 4), x1, y1, x2, y2 in pixels.
"""

from collections.abc import Callable

import torch
import torchvision

from .boxes import (
    nms,
    nms_match,
    softnms,
)
from .common import MANY, not_here
from .deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from .losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .regions import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from .sampling import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)

READS_STRIDES = True  # maps may have any memory format; see mmmeta/ops/layout.py


def __getattr__(name: str) -> Callable:
    """Return a function that raises, for an operator that is not implemented."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: object, **kwargs: object) -> None:
        raise not_here(name)

    return missing


def get_compiler_version() -> str:
    """Return a replacement for the compiler's version in environment reports."""
    return f"none (mmmeta's operators on torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """Return the CUDA version that torchvision and PyTorch are built for."""
    return torch.version.cuda or 'not available'
