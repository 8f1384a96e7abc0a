"""Where in its frames a network is active: attention maps of its features.

Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017), equation 1 with powers; Fig. 4b of ResKD
(NeurIPS 2022) lays them over frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.analysis.evaluating import evaluating
from lightning_modules.analysis.receptive_field import depth_of
from lightning_modules.networks.backbone import Backbone


def activation_attention(maps: Tensor, *, power: float = 2.0) -> Tensor:
    """Sum over channels of |A|^p, each frame divided by its largest value.

    Args:
        maps: (B, T, C, h, w) float.
        power: p; higher ones narrow down to the strongest places.

    Returns:
        (B, T, h, w) float64, 0 to 1; all 0 in frames without activity.
    """
    # Relative to the largest activity, which no power then takes out of range.
    strength = maps.double().abs()
    relative = strength / _peak(strength, dim=(2, 3, 4))
    attention = relative.pow(power).sum(dim=2)
    return attention / _peak(attention, dim=(2, 3))


def spread_over_frames(attention: Tensor, num_frames: int, size: tuple[int, int]) -> Tensor:
    """Up-sample attention to the frames that it is of, bilinearly.

    Args:
        attention: (B, t, h, w) float; networks that shorten time have t < T, and a map then serves several frames.
        num_frames: T.
        size: H and W, pixels.

    Returns:
        (B, T, H, W).
    """
    frames = torch.arange(num_frames, device=attention.device) * attention.shape[1] // num_frames
    return F.interpolate(attention, size=size, mode="bilinear", align_corners=False)[:, frames]


@torch.no_grad()
def attention_of(backbone: Backbone, clips: Tensor, *, depth: str | None = None, power: float = 2.0) -> Tensor:
    """Attention of a network in eval mode.

    Args:
        backbone: the network.
        clips: (B, T, C, H, W) float, normalised, on the network's device.
        depth: name in ``backbone.feature_info``; None: the last.
        power: as of ``activation_attention``.

    Returns:
        (B, t, h, w) float64, the map's size.

    Raises:
        ValueError: no such depth.
    """
    depth = depth_of(backbone, depth)
    with evaluating(backbone):
        return activation_attention(backbone.forward_features(clips)[depth], power=power)


def _peak(values: Tensor, *, dim: tuple[int, ...]) -> Tensor:
    """The largest value over some dimensions, kept; never 0, to divide by."""
    return values.amax(dim=dim, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
