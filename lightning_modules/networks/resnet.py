"""Residual networks over segments of a video, with torchvision's parameter names and outputs.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in torchvision's form: bottlenecks stride in
their 3x3 convolution ("v1.5"), no zero-initialised branches. Segment consensus after Wang et al., "Temporal Segment
Networks" (ECCV 2016): every frame is classified by itself, and the video's logits are the mean of its frames' logits.
"""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.feature_info import FeatureInfo
from lightning_modules.networks.input_norm import norm_and_convolve
from lightning_modules.networks.weights import load_weights


class ResidualBlock(nn.Module):
    """A branch of convolutions beside a shortcut: what all blocks have in common.

    Subclasses have ``relu`` and ``downsample``, the shortcut, and write the ``branch``.
    """

    expansion: ClassVar[int]
    relu: nn.Module
    downsample: nn.Module

    def branch(self, maps: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, expansion * channels, h / stride, w / stride), without the last ReLU."""
        raise NotImplementedError

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, expansion * channels, h / stride, w / stride)."""
        return self.relu(self.branch(maps) + self.downsample(maps))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    @override
    def branch(self, maps: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: the block of ResNet-50, -101 and -152."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1: nn.Module = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    @override
    def branch(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


class ResNet(Backbone):
    """A residual network that classifies clips frame by frame and averages the frames' logits.

    Attributes: ``num_classes``, ``in_channels`` and ``feature_info``, which describes the maps that
    ``forward_features`` returns: ``stem`` (after max pooling) and ``layer1`` to ``layer4``. ``clip_stages`` names the
    stages of blocks over clips (see ``ClipBlock``); the others see frame by frame.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks in each of the four stages.
        num_classes: length of the logits.
        in_channels: channels of the clips, e.g. 3 for I-frames and residuals, 2 for motion vectors.
        width: channels of the stem; the stages have 1, 2, 4 and 8 times as many. 64 is the published width.
        strides: of the four stages; (1, 1, 2, 2) keeps maps twice as large from ``layer2`` on, as ResKD's R50-S does,
            and takes the same weights.
        input_norm: put a BatchNorm (``input_bn``) on the raw input, as CoViAR does for vectors and residuals.
        dropout: probability of dropping a pooled feature before the classifier.
        fc_std: standard deviation of the classifier's weights at the start, with biases of 0, as in TSN; None: uniform,
            as PyTorch has it.
    """

    clip_stages: ClassVar[Collection[str]] = ()

    def __init__(
        self,
        block: type[ResidualBlock],
        depths: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        *,
        width: int = 64,
        strides: Sequence[int] = (1, 2, 2, 2),
        input_norm: bool = False,
        dropout: float = 0.0,
        fc_std: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.input_bn = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [FeatureInfo("stem", width, 4)]
        self.layer1 = self._stage("layer1", block, width, depths[0], strides[0])
        self.layer2 = self._stage("layer2", block, 2 * width, depths[1], strides[1])
        self.layer3 = self._stage("layer3", block, 4 * width, depths[2], strides[2])
        self.layer4 = self._stage("layer4", block, 8 * width, depths[3], strides[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.feature_info[-1].channels, num_classes)
        self._initialise(fc_std)

    @override
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        if name == "stem":
            self._check_shape(maps)
        run = self._stem if name == "stem" else self.get_submodule(name)
        if name in self.clip_stages:
            return run(maps)
        return run(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])

    @property
    @override
    def classifier(self) -> nn.Linear:
        return self.fc

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        pooled = self.avgpool(features.flatten(0, 1)).flatten(1)
        return self.fc(self.dropout(pooled)).unflatten(0, features.shape[:2])

    def _stem(self, frames: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / 4, W / 4)."""
        maps = norm_and_convolve(frames, self.input_bn, self.conv1)
        return self.maxpool(self.relu(self.bn1(maps)))

    def _stage(self, name: str, block: type[ResidualBlock], channels: int, depth: int, stride: int) -> nn.Sequential:
        """Build one stage on top of the last entry of ``feature_info``, and declare it there."""
        before = self.feature_info[-1]
        out_channels = channels * block.expansion
        self.feature_info.append(FeatureInfo(name, out_channels, before.reduction * stride))
        first = block(before.channels, channels, stride)
        return nn.Sequential(first, *(block(out_channels, channels) for _ in range(depth - 1)))

    def _initialise(self, fc_std: float | None) -> None:
        """He's normal initialisation by fan-out, as torchvision does; BatchNorm starts as the identity anyway."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if fc_std is not None:
            nn.init.normal_(self.fc.weight, std=fc_std)
            nn.init.zeros_(self.fc.bias)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, else a strided 1x1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def _resnet(
    block: type[ResidualBlock],
    depths: Sequence[int],
    num_classes: int,
    in_channels: int,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    **options: Any,
) -> ResNet:
    """Build a network and start it from ``weights`` (see ``load_weights``) where given."""
    network = ResNet(block, depths, num_classes, in_channels, **options)
    if weights is not None:
        load_weights(network, weights, sha256=sha256)
    return network


# Options of all of them: those of `ResNet` after `in_channels`; `weights`, `sha256` as in `load_weights`.


def resnet10(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-10, one basic block a stage: for small experiments; torchvision has none."""
    return _resnet(BasicBlock, (1, 1, 1, 1), num_classes, in_channels, **options)


def resnet18(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-18."""
    return _resnet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, **options)


def resnet34(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-34."""
    return _resnet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, **options)


def resnet50(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-50."""
    return _resnet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, **options)


def resnet101(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-101."""
    return _resnet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, **options)


def resnet152(num_classes: int, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-152."""
    return _resnet(Bottleneck, (3, 8, 36, 3), num_classes, in_channels, **options)
