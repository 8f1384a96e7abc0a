"""Residual networks over segments of a video, with torchvision's parameter names and outputs.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in torchvision's form: bottlenecks stride in
their 3x3 convolution ("v1.5"), no zero-initialised branches. Segment consensus after Wang et al., "Temporal Segment
Networks" (ECCV 2016): every frame is classified by itself, and the video's logits are the mean of its frames' logits.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_modules.networks.feature_info import FeatureInfo
from lightning_modules.networks.input_norm import norm_and_convolve
from lightning_modules.networks.weights import load_weights

STAGES = ("layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
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

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h / stride, w / stride)."""
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(maps))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: the block of ResNet-50, -101 and -152."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, 4 * channels, h / stride, w / stride)."""
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(maps))


class ResNet(nn.Module):
    """A residual network that classifies clips frame by frame and averages the frames' logits.

    Attributes: ``num_classes``, ``in_channels`` and ``feature_info``, which describes the maps that
    ``forward_features`` returns: ``stem`` (after max pooling) and ``layer1`` to ``layer4``.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks in each of the four stages.
        num_classes: length of the logits.
        in_channels: channels of the clips, e.g. 3 for I-frames and residuals, 2 for motion vectors.
        width: channels of the stem; the stages have 1, 2, 4 and 8 times as many. 64 is the published width.
        input_norm: put a BatchNorm (``input_bn``) on the raw input, as CoViAR does for vectors and residuals.
        dropout: probability of dropping a pooled feature before the classifier.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        *,
        width: int = 64,
        input_norm: bool = False,
        dropout: float = 0.0,
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
        self.layer1 = self._stage("layer1", block, width, depths[0], stride=1)
        self.layer2 = self._stage("layer2", block, 2 * width, depths[1], stride=2)
        self.layer3 = self._stage("layer3", block, 4 * width, depths[2], stride=2)
        self.layer4 = self._stage("layer4", block, 8 * width, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.feature_info[-1].channels, num_classes)
        self._initialise()

    def forward(self, clip: Tensor) -> Tensor:
        """Classify clips.

        Args:
            clip: (B, T, in_channels, H, W) float, normalised.

        Returns:
            (B, num_classes) logits, the mean over the T frames.
        """
        return self.frame_logits(clip).mean(dim=1)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Classify every frame by itself: (B, T, in_channels, H, W) -> (B, T, num_classes)."""
        return self.forward_head(self.forward_features(clip)["layer4"])

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Compute the maps named in ``feature_info``.

        Args:
            clip: (B, T, in_channels, H, W) float, normalised.

        Returns:
            (B, T, channels, H / reduction, W / reduction) by name, sides rounded up.

        Raises:
            ValueError: the clip is not 5-dimensional or has another number of channels.
        """
        self._check_shape(clip)
        maps = norm_and_convolve(clip.flatten(0, 1), self.input_bn, self.conv1)
        features = {"stem": self.maxpool(self.relu(self.bn1(maps)))}
        maps = features["stem"]
        for name in STAGES:
            features[name] = maps = self.get_submodule(name)(maps)
        return {name: maps.unflatten(0, clip.shape[:2]) for name, maps in features.items()}

    def forward_head(self, features: Tensor) -> Tensor:
        """Classify the maps of ``layer4``: (B, T, channels, h, w) -> (B, T, num_classes) logits per frame."""
        pooled = self.avgpool(features.flatten(0, 1)).flatten(1)
        return self.fc(self.dropout(pooled)).unflatten(0, features.shape[:2])

    def _stage(
        self, name: str, block: type[BasicBlock] | type[Bottleneck], channels: int, depth: int, stride: int
    ) -> nn.Sequential:
        """Build one stage on top of the last entry of ``feature_info``, and declare it there."""
        before = self.feature_info[-1]
        out_channels = channels * block.expansion
        self.feature_info.append(FeatureInfo(name, out_channels, before.reduction * stride))
        first = block(before.channels, channels, stride)
        return nn.Sequential(first, *(block(out_channels, channels) for _ in range(depth - 1)))

    def _initialise(self) -> None:
        """He's normal initialisation by fan-out, as torchvision does; BatchNorm starts as the identity anyway."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _check_shape(self, clip: Tensor) -> None:
        if clip.ndim != 5 or clip.shape[2] != self.in_channels:
            raise ValueError(
                f"expected clips of shape (B, T, {self.in_channels}, H, W), came {tuple(clip.shape)}; "
                "the network's `in_channels` must be the channels of its stream"
            )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, else a strided 1x1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
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


# Options of all of them: `width`, `input_norm`, `dropout` as in `ResNet`; `weights`, `sha256` as in `load_weights`.


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
