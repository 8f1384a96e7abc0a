"""A sheet of one GOP: plain frames, motion vectors and residuals, position by position."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.bitstream import CompressedVideo
from datamodules.bitstream.frames import Reference
from datamodules.visualise.colors import motion_colors, motion_scale, residual_colors
from datamodules.visualise.legend import against, draw_residual_bar, draw_wheel, shortened
from datamodules.visualise.walk import read_iframe, read_pframes, spread_positions

STREAMS = ("frame", "motion", "residual")

# Inches.
_PANEL_SIDE = 1.75  # of a square panel; others have its area
_PANEL_LIMIT = 4.5
_LEGEND_SIDE = 1.1
_LABEL_ROOM = 0.8  # at least, for the name of a row or column
_GAP = 0.08
_TEXT_LINE = 0.26
_HEADER = 2.8 * _TEXT_LINE
_LETTERS_PER_INCH = 10
_SMALL = 200  # pixels across: magnified, and crisp


def draw_streams(
    video: CompressedVideo,
    *,
    gop: int | None = None,
    num_positions: int = 4,
    reference: Reference = "iframe",
    name: str | None = None,
) -> Figure:
    """One GOP of a video: plain frames, motion vectors and residuals side by side, with legends.

    Args:
        video: one whose vectors can be read.
        gop: number of the GOP; the first with P-frames if None.
        num_positions: P-frames to show, spread over the GOP; all where it has fewer.
        reference: what vectors and residuals refer to.
        name: what to call the video; its file's name if None.

    Raises:
        UnreadableVideoError: the file cannot be read, or its motion vectors cannot be accumulated.
        IndexError: there is no such GOP.
        ValueError: the GOP holds nothing but its I-frame, or no positions are asked for.
    """
    gop = _first_with_motion(video) if gop is None else gop
    name = name or Path(video.path).name
    if num_positions < 1:
        raise ValueError(f"num_positions (--positions): expected 1 P-frame or more to show, got {num_positions}")
    if video.gops[gop].length == 1:
        raise ValueError(f"{name}: GOP {gop} has an I-frame only; choose another (--gop)")
    seen = read_pframes(video, gop, spread_positions(video.gops[gop], num_positions), reference)
    scale = motion_scale(at.mv for at in seen)
    figure, axes = _grid(["I-frame", *(f"P-frame {at.position}" for at in seen)], *video.index.upright_size[::-1])
    _show(axes[0, 0], read_iframe(video, gop).rgb)
    draw_wheel(axes[0, 1], scale)
    draw_residual_bar(axes[0, 2])
    for line, at in zip(axes[1:], seen, strict=True):
        pictures = at.rgb, motion_colors(at.mv, scale), residual_colors(at.residual)
        for axis, picture in zip(line, pictures, strict=True):
            _show(axis, picture)
    _caption(figure, name, f"GOP {gop}, {against(reference)}")
    return figure


def _first_with_motion(video: CompressedVideo) -> int:
    """The number of the first GOP with P-frames, 0 where none has any."""
    return next((number for number, gop in enumerate(video.gops) if gop.length > 1), 0)


def _grid(lines: list[str], width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A labelled grid of panels: (lines, streams) axes. Lines are columns, and rows where pictures are wide."""
    stretch = math.sqrt(width / height)
    wide, high = (max(_LABEL_ROOM, min(_PANEL_LIMIT, side)) for side in (_PANEL_SIDE * stretch, _PANEL_SIDE / stretch))
    streams = list(STREAMS)
    if width > 2 * height:
        heights = [max(high, _LEGEND_SIDE), *[high] * (len(lines) - 1)]
        return _labelled(streams, lines, [wide] * len(streams), heights)
    widths = [max(wide, _LEGEND_SIDE), *[wide] * (len(lines) - 1)]
    figure, axes = _labelled(lines, streams, widths, [high] * len(streams))
    return figure, axes.T


def _labelled(
    columns: list[str], rows: list[str], widths: list[float], heights: list[float]
) -> tuple[Figure, np.ndarray]:
    """(rows, columns) axes of these sizes in inches, names above the columns and beside the rows."""
    lefts = list(accumulate((width + _GAP for width in widths), initial=_TEXT_LINE))
    tops = list(accumulate((height + _GAP for height in heights), initial=_HEADER))
    right, bottom = lefts.pop(), tops.pop()
    figure = Figure((right, bottom))
    axes = np.empty((len(rows), len(columns)), object)
    for column, (left, width) in enumerate(zip(lefts, widths, strict=True)):
        _label(figure, left + width / 2, _HEADER - 0.4 * _TEXT_LINE, columns[column])
        for row, (top, height) in enumerate(zip(tops, heights, strict=True)):
            box = left / right, 1 - (top + height) / bottom, width / right, height / bottom
            axes[row, column] = figure.add_axes(box)
    for name, top, height in zip(rows, tops, heights, strict=True):
        _label(figure, 0.45 * _TEXT_LINE, top + height / 2, name, rotation=90)
    return figure, axes


def _label(figure: Figure, x: float, y: float, text: str, *, ha: str = "center", **style: Any) -> None:
    """Writes at a place given in inches from the top left."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, ha=ha, va="center", fontsize=10, **style)


def _show(axis: Axes, picture: np.ndarray) -> None:
    axis.imshow(picture, interpolation="nearest" if picture.shape[1] < _SMALL else "antialiased")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color="0.7", linewidth=0.5)


def _caption(figure: Figure, name: str, rest: str) -> None:
    name = shortened(name, int(figure.get_figwidth() * _LETTERS_PER_INCH))
    _label(figure, _GAP, 0.55 * _TEXT_LINE, name, ha="left", weight="bold")
    _label(figure, _GAP, 1.3 * _TEXT_LINE, rest, ha="left")
