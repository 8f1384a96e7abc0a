"""The cheap way through the input's BatchNorm equals the plain one: outputs, gradients, running statistics."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.networks.input_norm import norm_and_convolve


def layers(channels: int) -> tuple[nn.BatchNorm2d, nn.Conv2d]:
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.Conv2d(channels, 4, 7, stride=2, padding=3, bias=False, dtype=torch.float64)


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_plain_way(channels: int, training: bool) -> None:
    norm, conv = layers(channels)
    norm.train(training)
    plain_norm, plain_conv = copy.deepcopy(norm), copy.deepcopy(conv)
    for _ in range(2):
        frames = 3 + torch.randn(6, channels, 19, 22, dtype=torch.float64)
        ours, plain = norm_and_convolve(frames, norm, conv), plain_conv(plain_norm(frames))
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
        weights = torch.randn_like(plain)
        (ours * weights).sum().backward()
        (plain * weights).sum().backward()
    pairs = [(norm.weight, plain_norm.weight), (norm.bias, plain_norm.bias), (conv.weight, plain_conv.weight)]
    for mine, truth in pairs:
        torch.testing.assert_close(mine.grad, truth.grad, rtol=1e-9, atol=1e-9)
    for mine, truth in zip(norm.buffers(), plain_norm.buffers(), strict=True):
        torch.testing.assert_close(mine, truth)


def test_gradients_reach_an_input_that_wants_them() -> None:
    norm, conv = layers(3)
    frames = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    norm_and_convolve(frames, norm, conv).square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0


def test_without_a_norm_the_convolution_alone() -> None:
    _, conv = layers(3)
    frames = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(norm_and_convolve(frames, nn.Identity(), conv), conv(frames))
