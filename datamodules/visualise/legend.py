"""Legends: the wheel that explains the colours of motion, the bar that explains those of residuals, and words."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from datamodules.bitstream.frames import Reference
from datamodules.visualise.colors import color_wheel, residual_colors


def draw_wheel(axis: Axes, scale: float, *, fontsize: float = 9) -> None:
    """Draws the colour wheel, with the motion at its centre, half-way circle and rim.

    Args:
        axis: an empty one; its limits and aspect are set.
        scale: pixels of motion at the rim.
        fontsize: points.
    """
    axis.imshow(color_wheel(256), extent=(-1, 1, 1, -1), interpolation="antialiased")
    for radius in (0.5, 1):
        axis.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.4", linewidth=0.5))
    axis.text(0, 0, "0", ha="center", va="center", fontsize=fontsize)
    axis.text(0, 1.12, f"rim: {scale:.0f} px", ha="center", va="top", fontsize=fontsize)
    for x, y, arrow in ((1.2, 0, "→"), (-1.2, 0, "←"), (0, -1.2, "↑")):
        axis.text(x, y, arrow, ha="center", va="center", fontsize=fontsize)
    axis.set(xlim=(-1.4, 1.4), ylim=(1.5, -1.5), aspect="equal")
    axis.set_axis_off()


def draw_residual_bar(axis: Axes, *, fontsize: float = 9) -> None:
    """Draws how a difference of one colour channel looks: dark below, mid-grey none, bright above.

    Args:
        axis: an empty one; the bar takes its middle.
        fontsize: points.
    """
    axis.set_axis_off()
    bar = axis.inset_axes((0.2, 0.48, 0.6, 0.1))
    levels = residual_colors(np.linspace(-128, 127, 256).round().astype(np.int16))
    bar.imshow(levels[None, :, None].repeat(3, -1), extent=(-128, 127, 0, 1), aspect="auto")
    bar.set_xticks([-128, 0, 127], ["−128", "0", "127"], fontsize=fontsize)
    bar.set_yticks([])
    bar.spines[:].set(color="0.4", linewidth=0.5)
    bar.tick_params(length=2, width=0.5, color="0.4", pad=2)


def against(reference: Reference) -> str:
    """What motion and residual refer to, in words."""
    return {
        "iframe": "motion and residual against the GOP's I-frame",
        "previous": "motion and residual against the frame before",
    }[reference]


def shortened(name: str, length: int) -> str:
    """`name` in at most `length` letters, its middle left out where it is longer."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
