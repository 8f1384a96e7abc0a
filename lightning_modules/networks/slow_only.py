"""SlowOnly: a residual network whose deep blocks look at three frames, without temporal downsampling.

The slow pathway alone of Feichtenhofer et al., "SlowFast Networks for Video Recognition" (ICCV 2019), section 3.1 and
table 5: a 2-D network inflated along time. The first convolution of the bottlenecks in ``layer3`` and ``layer4`` is
3x1x1, all other kernels have a length of 1: mmaction2's ``inflate=(0, 0, 1, 1)``.

Kernels of length 1 see one frame at a time and are run, and kept, as 2-D ones: the same numbers. Parameter names are
torchvision's; 2-D weights fit as well as 3-D ones (see ``load_weights``).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.networks.clip_block import ClipBlock
from lightning_modules.networks.resnet import Bottleneck, ResidualBlock, ResNet
from lightning_modules.networks.weights import load_weights


class TemporalConv(nn.Conv3d):
    """3x1x1 convolution over clips, whose ends are filled up with zeros; without bias."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, (3, 1, 1), padding=(1, 0, 0), bias=False)

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, in_channels, h, w) -> (B * T, channels, h, w)."""
        return super().forward(maps.transpose(1, 2)).transpose(1, 2).flatten(0, 1)


class InflatedBottleneck(ClipBlock, Bottleneck):
    """The block of ResNet-50 over clips: 3x1x1, 1x3x3 and 1x1x1 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = TemporalConv(in_channels, channels)


class SlowOnlyResNet(ResNet):
    """SlowOnly of bottlenecks; ``num_classes`` and the other arguments are those of ``ResNet``.

    Maps keep all T frames. ``dropout`` drops a pooled feature from all frames of a clip.
    """

    clip_stages = ("layer3", "layer4")
    pools_time = True

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(3, 4)).transpose(1, 2)
        return self.fc(F.dropout1d(pooled, self.dropout.p, self.training).transpose(1, 2))

    @override
    def _stage(self, name: str, block: type[ResidualBlock], channels: int, depth: int, stride: int) -> nn.Sequential:
        block = InflatedBottleneck if name in self.clip_stages else block
        return super()._stage(name, block, channels, depth, stride)


def slow_only_resnet50(
    num_classes: int,
    in_channels: int = 3,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    **options: Any,
) -> SlowOnlyResNet:
    """SlowOnly-50, started from ``weights`` (see ``load_weights``) where given; options are those of ``ResNet``."""
    network = SlowOnlyResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, **options)
    if weights is not None:
        load_weights(network, weights, sha256=sha256)
    return network
