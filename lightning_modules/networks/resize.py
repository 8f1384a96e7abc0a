"""Resizing maps and frames of clips, bilinearly and without antialiasing, as ResKD's code does (NeurIPS 2022)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize frame by frame, pixel centres aligned (``align_corners`` false).

    Args:
        maps: (B, T, C, h, w) float.
        size: H and W.

    Returns:
        (B, T, C, H, W); the maps themselves where they have that size.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    frames = F.interpolate(maps.flatten(0, 1), size=tuple(size), mode="bilinear", align_corners=False)
    return frames.unflatten(0, maps.shape[:2])


def resize_short_side(clips: Tensor, size: int) -> Tensor:
    """Resize frames (N, T, C, H, W) so that their short side has ``size`` pixels, as ``resize_maps``."""
    return resize_maps(clips, resized_shape(clips.shape, size)[-2:])


def resized_shape(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """(..., H', W') of clips (..., H, W) whose short side becomes ``size``; the other keeps its ratio, rounded."""
    *front, height, width = shape
    return (*front, *(max(1, round(side * size / min(height, width))) for side in (height, width)))
