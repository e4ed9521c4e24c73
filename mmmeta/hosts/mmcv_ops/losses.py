"""Focal losses."""

import torch
from torch import Tensor

from .common import widened


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def _weigh(loss: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Multiply losses (N, ...) by the weights of their targets' classes, if any.

    Background targets, for which mmcv reads outside the weights, have weight 1.
    """
    if not weight.numel():
        return loss
    known = (target >= 0) & (target < len(weight))
    factor = weight[target.clamp(0, len(weight) - 1)].masked_fill(~known, 1)
    return loss * factor.view(-1, *[1] * (loss.dim() - 1))


def _is_target(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the focal loss (1708.02002, eq. 5) of logits into `output` (N, classes).

    `target` (N,), int64, is the class, or any other number for the background;
    `weight` (classes,) or empty.
    """
    input, weight = widened(input, weight)
    p, q = input.sigmoid(), 1 - input.sigmoid()
    own, other = -alpha * q**gamma * _log(p), (alpha - 1) * p**gamma * _log(q)
    loss = torch.where(_is_target(target, input.shape[1]), own, other)
    output.copy_(_weigh(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of each loss with respect to its logit into `grad_input`."""
    input, weight = widened(input, weight)
    p, q = input.sigmoid(), 1 - input.sigmoid()
    own = -alpha * q**gamma * (q - gamma * p * _log(p))
    other = (alpha - 1) * p**gamma * (gamma * q * _log(q) - p)
    grad = torch.where(_is_target(target, input.shape[1]), own, other)
    grad_input.copy_(_weigh(grad, target, weight))


def _of_target(softmax: Tensor, target: Tensor) -> Tensor:
    return softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float,
    alpha: float,
) -> None:  # fmt: skip
    """Write the focal loss of probabilities (N, classes) into `output` (N,).

    `target` and `weight` as above; targets below zero have no loss.
    """
    softmax, weight = widened(softmax, weight)
    p = _of_target(softmax, target)
    loss = _weigh(-alpha * (1 - p) ** gamma * _log(p), target, weight)
    output.copy_(loss.masked_fill(target < 0, 0))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor,
    *, gamma: float, alpha: float,
) -> None:  # fmt: skip
    """Write the gradient of the losses with respect to the logits into `grad_input`.

    The factor shared by the classes of a row is written into `buff` (N,).
    """
    softmax, weight = widened(softmax, weight)
    p = _of_target(softmax, target)
    q = 1 - p
    factor = alpha * (gamma * q ** (gamma - 1) * p * _log(p) - q**gamma)
    factor = _weigh(factor, target, weight).masked_fill(target < 0, 0)
    buff.copy_(factor)
    own = _is_target(target, softmax.shape[1]).to(softmax.dtype)
    grad_input.copy_(factor[:, None] * (own - softmax))
