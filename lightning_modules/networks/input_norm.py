"""BatchNorm on a network's raw input, as CoViAR has it for vectors and residuals, at little cost in training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_and_convolve(frames: Tensor, norm: nn.Module, conv: nn.Conv2d) -> Tensor:
    """``conv(norm(frames))``; in training, BatchNorm's weight and bias are moved into the filters.

    ``conv(w * x + b) = (conv * w)(x) + conv(b)``: so the normalised frames need no gradient, and the backward pass
    through the first convolution, at full resolution, is left out. Equal up to rounding.

    Args:
        frames: (N, C, H, W) float.
        norm: a BatchNorm2d, or anything else, which is then simply called.
        conv: without bias.

    Returns:
        (N, width, H', W') float.
    """
    if type(norm) is not nn.BatchNorm2d or not norm.training or not torch.is_grad_enabled() or frames.requires_grad:
        return conv(norm(frames))
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    unit = F.batch_norm(frames, norm.running_mean, norm.running_var, None, None, True, norm.momentum, norm.eps)
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    constant = conv(shift.expand(1, -1, *frames.shape[2:]))
    return F.conv2d(unit, conv.weight * scale, None, conv.stride, conv.padding) + constant
