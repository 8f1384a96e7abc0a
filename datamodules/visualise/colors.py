"""Motion vectors and residuals as colours."""

from collections.abc import Iterable

import numpy as np
from matplotlib.colors import hsv_to_rgb

_LEAST_SCALE = 4.0  # pixels: below it, single steps of the encoder's search would look like strong motion
_SCALE_PERCENTILE = 98  # of the lengths of what moves: the encoder's search throws a few vectors far


def motion_colors(mv: np.ndarray, max_length: float) -> np.ndarray:
    """Motion as colour: hue is direction, saturation is length, white is rest.

    Args:
        mv: (..., H, W, 2) pixels, x before y.
        max_length: length in pixels from which on colours are fully saturated.

    Returns:
        (..., H, W, 3) uint8 RGB.
    """
    x, y = mv[..., 0].astype(np.float32), mv[..., 1].astype(np.float32)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    saturation = np.clip(np.hypot(x, y) / max_length, 0, 1)
    return (255 * hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], -1))).astype(np.uint8)


def motion_scale(fields: Iterable[np.ndarray]) -> float:
    """The `max_length` that suits these motion fields: whole pixels, reached by the fastest of what moves.

    Args:
        fields: (..., 2) pixels each.
    """
    lengths = [np.hypot(mv[..., 0], mv[..., 1], dtype=np.float32) for mv in fields]
    moving = np.concatenate([np.zeros(1, np.float32), *(length[length > 0] for length in lengths)])
    return max(_LEAST_SCALE, float(np.ceil(np.percentile(moving, _SCALE_PERCENTILE))))


def residual_colors(residual: np.ndarray) -> np.ndarray:
    """(..., 3) int16 residual about mid-grey, differences beyond +-127 clipped, as (..., 3) uint8."""
    return np.clip(residual + 128, 0, 255).astype(np.uint8)


def color_wheel(size: int = 96) -> np.ndarray:
    """(size, size, 3) uint8: the legend of `motion_colors`, a vector's colour at its tip; white outside."""
    axis = np.linspace(-1, 1, size)
    mv = np.stack(np.meshgrid(axis, axis), -1)
    wheel = motion_colors(mv, 1.0)
    wheel[np.hypot(*np.moveaxis(mv, -1, 0)) > 1] = 255
    return wheel
