"""Pictures of what a compressed video holds, for a person to look at."""

from datamodules.visualise.colors import color_wheel, motion_colors, residual_colors
from datamodules.visualise.overlay import draw_overlay
from datamodules.visualise.sheet import draw_streams

__all__ = ["color_wheel", "draw_overlay", "draw_streams", "motion_colors", "residual_colors"]
