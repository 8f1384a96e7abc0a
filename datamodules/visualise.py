"""Pictures of what a compressed video holds: I-frame, motion field and residual along a GOP."""

import os

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from datamodules.bitstream import CompressedVideo


def motion_colors(mv: np.ndarray, max_length: float) -> np.ndarray:
    """Motion as colour: hue is direction, saturation is length, white is rest.

    Args:
        mv: (H, W, 2) pixels, x before y.
        max_length: length in pixels from which on colours are fully saturated.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    x, y = mv[..., 0].astype(np.float64), mv[..., 1].astype(np.float64)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    saturation = np.clip(np.hypot(x, y) / max_length, 0, 1)
    return (255 * hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], -1))).astype(np.uint8)


def residual_colors(residual: np.ndarray) -> np.ndarray:
    """(H, W, 3) int16 residual about mid-grey, differences beyond +-127 clipped, as (H, W, 3) uint8."""
    return np.clip(residual + 128, 0, 255).astype(np.uint8)


def color_wheel(size: int = 96) -> np.ndarray:
    """(size, size, 3) uint8: the legend of `motion_colors`, a vector's colour at its tip; white outside."""
    axis = np.linspace(-1, 1, size)
    mv = np.stack(np.meshgrid(axis, axis), -1)
    wheel = motion_colors(mv, 1.0)
    wheel[np.hypot(*np.moveaxis(mv, -1, 0)) > 1] = 255
    return wheel


def draw_streams(path: str | os.PathLike[str], *, gop: int = 0, num_positions: int = 4) -> Figure:
    """One GOP of a video: plain frames, accumulated motion vectors and residuals side by side, with a legend.

    Raises:
        UnreadableVideoError: the file cannot be read, or its motion vectors cannot be accumulated.
        ValueError: the GOP holds nothing but its I-frame.
    """
    with CompressedVideo(path) as video:
        frames = video.read_gop(gop, streams=("rgb", "mv", "residual"))
    if frames.rgb is None or frames.mv is None or frames.residual is None or not len(frames.mv):
        raise ValueError(f"{os.fspath(path)}: GOP {gop} has an I-frame only; choose another with gop=")
    positions = np.unique(np.linspace(1, len(frames.mv), num_positions).round().astype(int)).tolist()
    longest = max(1.0, float(np.percentile(np.hypot(frames.mv[..., 0], frames.mv[..., 1]), 99.5)))
    rows = {
        "frame": [frames.rgb[0], *(frames.rgb[position] for position in positions)],
        "motion vectors": [color_wheel(), *(motion_colors(frames.mv[p - 1], longest) for p in positions)],
        "residual": [None, *(residual_colors(frames.residual[p - 1]) for p in positions)],
    }
    titles = ["I-frame", *(f"P-frame {position}" for position in positions)]
    figure = _sheet(rows, titles, height_over_width=frames.rgb.shape[1] / frames.rgb.shape[2])
    figure.axes[len(titles)].set_title(f"direction; full colour at {longest:.0f} px", fontsize=8)
    return figure


def _sheet(rows: dict[str, list[np.ndarray | None]], titles: list[str], height_over_width: float) -> Figure:
    width = 1.9 * len(titles)
    figure = Figure(figsize=(width, 1.9 * len(rows) * height_over_width + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axis = axes[row][column]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if image is not None:
                axis.imshow(image)
        axes[row][0].set_ylabel(name, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure
