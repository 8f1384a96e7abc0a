"""What of a frame a network looks at: the effective receptive field of its central unit.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks" (NeurIPS 2016); Fig. 4a
of ResKD ("Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS 2022) compares networks by it.

A pass backwards for each of 2048 channels would be too dear, and in a plain sum they cancel: what LayerNorm puts out
sums to a constant, so that nothing would be left of a transformer's field. So the channels of a unit are summed with
random signs, the same in every run; over videos and frames the mean tends to the root of their squares, up to a factor.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lightning_modules.analysis.evaluating import evaluating
from lightning_modules.networks.backbone import Backbone

# Luo et al. count what has more than 1 - 95.45 % of the largest value, two standard deviations of a Gaussian.
THRESHOLD = 0.0455


@dataclass(frozen=True)
class FieldArea:
    """How much of the frame an effective receptive field takes.

    Args:
        stream: what the network sees.
        depth: name of the feature map.
        frame: height and width of the frames, pixels.
        threshold: of the largest value, above which a pixel belongs to the field.
        pixels: how many do.
        fraction: the same, of all pixels of the frame.
        num_videos: over how many the field is a mean.
        num_frames: of each of them.
    """

    stream: str
    depth: str
    frame: tuple[int, int]
    threshold: float
    pixels: int
    fraction: float
    num_videos: int
    num_frames: int

    @property
    def side(self) -> float:
        """Of a square of this area, pixels: the size that Luo et al. give."""
        return self.pixels**0.5

    def to_record(self) -> dict[str, Any]:
        """Plain values, for JSON; with the side, which is derived."""
        return {**asdict(self), "side": self.side}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FieldArea":
        """What ``to_record`` was made of, also after a way through JSON."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values | {"frame": tuple(record["frame"])})


@torch.inference_mode(False)
@torch.enable_grad()
def effective_receptive_field(backbone: Backbone, clips: Tensor, *, depth: str | None = None) -> Tensor:
    """Mean over videos, frames and input channels of |d unit / d input|, by pixel; its largest value is 1.

    The unit is the central one of a feature map, at ``h // 2, w // 2``: its channels in all frames, with random signs.
    The network is in eval mode; its parameters and their ``.grad`` are left alone. Works in inference mode.

    Args:
        backbone: the network.
        clips: (B, T, C, H, W) float, normalised, on the network's device.
        depth: name in ``backbone.feature_info``; None: the last.

    Returns:
        (H, W) float64 on the CPU, 0 to 1; all 0 where nothing reaches the unit.

    Raises:
        ValueError: no such depth, or no clips.
    """
    depth = depth_of(backbone, depth)
    if not len(clips):
        raise ValueError("expected at least one clip to see a receptive field on, came none")
    signs = torch.Generator().manual_seed(0)
    with evaluating(backbone):
        # One by one, for memory.
        parts = [_sensitivity(backbone, clip, depth, signs) for clip in clips.split(1)]
    field = torch.stack(parts).mean(dim=0)
    return field / field.amax().clamp(min=torch.finfo(field.dtype).tiny)


def area_above(field: Tensor, threshold: float = THRESHOLD) -> tuple[int, float]:
    """Pixels of a field (H, W) with more than ``threshold``, and their fraction of the frame."""
    pixels = int((field > threshold).sum())
    return pixels, pixels / field.numel()


def depth_of(backbone: Backbone, depth: str | None) -> str:
    """``depth``, or the last of the network.

    Raises:
        ValueError: the network has no such depth.
    """
    depths = [info.name for info in backbone.feature_info]
    if depth is None:
        return depths[-1]
    if depth not in depths:
        raise ValueError(f"`depth`: expected one of the network's {depths}, came {depth!r}")
    return depth


def _sensitivity(backbone: Backbone, clip: Tensor, depth: str, generator: torch.Generator) -> Tensor:
    """(H, W) float64, not normalised, of one clip (1, T, C, H, W)."""
    clip = clip.detach().clone().requires_grad_()
    maps = backbone.forward_features(clip)[depth]
    height, width = maps.shape[-2:]
    unit = maps[..., height // 2, width // 2]
    signs = 2 * torch.randint(2, unit.shape, generator=generator).to(unit) - 1
    (gradient,) = torch.autograd.grad((signs * unit).sum(), clip)
    return gradient.abs().double().mean(dim=(0, 1, 2)).cpu()
