"""Classifiers on the feature maps inside a network: its early exits.

Soufleri et al., "Advancing Compressed Video Action Recognition through Progressive Knowledge Distillation"
(arXiv 2407.02713), in the form of its public code: no ReLU between normalisation and classifier.
"""

from collections import OrderedDict

from torch import Tensor, nn

from lightning_modules.networks.grid_pool import GridPool


class FrameClassifier(nn.Module):
    """Classifies feature maps frame by frame and averages the frames' logits.

    Args:
        head: (N, channels, h, w) -> (N, num_classes).
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, channels, h, w) -> (B, num_classes) logits, the mean over the T frames."""
        return self.frame_logits(maps).mean(dim=1)

    def frame_logits(self, maps: Tensor) -> Tensor:
        """(B, T, channels, h, w) -> (B, T, num_classes)."""
        return self.head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


class InternalClassifier(FrameClassifier):
    """The paper's: convolution without bias, BatchNorm, average pooling to a small grid, linear.

    Args:
        in_channels: channels of the maps.
        num_classes: length of the logits.
        channels: of the convolution's output; None takes ``in_channels``.
        kernel_size: of the convolution.
        padding: of the convolution: 1 for all of the paper's, also where they are 7x7.
        pool_size: sides of the grid that is pooled to; smaller maps are repeated.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int | None = None,
        kernel_size: int = 3,
        padding: int = 1,
        pool_size: int = 4,
    ) -> None:
        channels = channels or in_channels
        layers = OrderedDict(
            conv=nn.Conv2d(in_channels, channels, kernel_size, padding=padding, bias=False),
            norm=nn.BatchNorm2d(channels),
            pool=GridPool(pool_size),
            flatten=nn.Flatten(),
            fc=nn.Linear(channels * pool_size**2, num_classes),
        )
        super().__init__(nn.Sequential(layers))


class LinearClassifier(FrameClassifier):
    """A linear layer on the mean of each channel.

    Args:
        in_channels: channels of the maps.
        num_classes: length of the logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        layers = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(in_channels, num_classes))
        super().__init__(nn.Sequential(layers))


class SegmentClassifier(nn.Module):
    """A linear layer on the means of each channel in all segments of a clip, side by side: that of PKD on TEAM-Net.

    Args:
        in_channels: channels of the maps.
        num_classes: length of the logits.
        num_segments: T, which its weights fix.
    """

    def __init__(self, in_channels: int, num_classes: int, *, num_segments: int = 8) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.fc = nn.Linear(num_segments * in_channels, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, channels, h, w) -> (B, num_classes) logits.

        Raises:
            ValueError: another T.
        """
        if maps.shape[1] != self.num_segments:
            raise ValueError(
                f"expected clips of {self.num_segments} segments, for which the internal classifiers are "
                f"(their `num_segments`, by depth in `model.init_args.exits`), came {maps.shape[1]}; set "
                f"`data.init_args.num_segments: {self.num_segments}`, and `test_segments` alike, or train others"
            )
        return self.fc(maps.mean(dim=(3, 4)).flatten(1))
