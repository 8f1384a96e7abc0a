"""Frames at lower resolutions, and networks that see theirs through one.

ResKD ("Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS 2022), Fig. 1a: frames that are
down-sampled, and up-sampled to the full size again, lack the detail of the full size but not the size.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_modules.networks.backbone import Backbone


class DegradedInput(Backbone):
    """A network on frames whose detail is that of a lower resolution, in training and in use; as dear as without.

    Args:
        network: which sees frames as large as they come.
        size: of the short side, pixels, through which frames go; those that are no larger are left alone.
    """

    def __init__(self, network: Backbone, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`size`: expected 1 pixel or more, came {size}")
        self.network = network
        self.size = size
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels
        self.feature_info = network.feature_info

    @override
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        if name == self.feature_info[0].name and self.size < min(maps.shape[-2:]):
            maps = resize_frames(resize_short_side(maps, self.size), maps.shape[-2:])
        return self.network.forward_stage(name, maps)

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        return self.network.forward_head(features)


def resize_frames(clips: Tensor, size: Sequence[int]) -> Tensor:
    """Resize frames to (H', W'), bilinearly and without antialiasing, as ResKD's code does.

    Args:
        clips: (N, T, C, H, W) float.
        size: H' and W', pixels.

    Returns:
        (N, T, C, H', W').
    """
    if tuple(clips.shape[-2:]) == tuple(size):
        return clips
    frames = F.interpolate(clips.flatten(0, 1), size=tuple(size), mode="bilinear", align_corners=False)
    return frames.unflatten(0, clips.shape[:2])


def resize_short_side(clips: Tensor, size: int) -> Tensor:
    """Resize frames (N, T, C, H, W) so that their short side has ``size`` pixels, as ``resize_frames``."""
    return resize_frames(clips, resized_shape(clips.shape, size)[-2:])


def resized_shape(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """(..., H', W') of clips (..., H, W) whose short side becomes ``size``; the other keeps its ratio, rounded."""
    *front, height, width = shape
    return (*front, *(max(1, round(side * size / min(height, width))) for side in (height, width)))
