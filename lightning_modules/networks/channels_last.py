"""Weights of 2-D convolutions stored channels last (NHWC), which most CPUs and GPUs convolve faster."""

import torch
from torch import nn


def store_channels_last(network: nn.Module) -> None:
    """Convert the weights in place; activations follow, results agree up to rounding. 3-D ones stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
