"""Residual blocks that look at neighbouring frames, the step from networks over frames to networks over clips."""

from torch import Tensor
from typing_extensions import override

from lightning_modules.networks.resnet import ResidualBlock


class ClipBlock(ResidualBlock):
    """A residual block over clips: its branch takes maps of clips and gives maps of frames, its shortcut sees frames.

    ::

        (B, T, C, h, w) --+-- branch, across frames --+-- ReLU -> (B, T, C', h', w')
                          +-- shortcut, of each ------+
    """

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, in_channels, h, w) -> (B, T, expansion * channels, h / stride, w / stride)."""
        out = self.branch(maps) + self.downsample(maps.flatten(0, 1))
        return self.relu(out).unflatten(0, maps.shape[:2])
