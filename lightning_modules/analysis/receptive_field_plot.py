"""Pictures of effective receptive fields: networks side by side, in equal colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lightning_modules.analysis.receptive_field import FieldArea

SIDE = 2.7  # inches of a panel
CURVES_WIDTH = 1.3  # panels
COLUMNS = 4  # panels in a row at most
COLORS = "magma"
FLOOR = 1e-3  # of the colours, and of the thresholds


@dataclass(frozen=True)
class MeasuredField:
    """An effective receptive field with its area.

    Args:
        values: (H, W) float, 0 to 1.
        area: of it.
    """

    values: np.ndarray
    area: FieldArea


def draw_receptive_fields(measured: Mapping[str, MeasuredField]) -> Figure:
    """A panel for each network, the contour at the threshold; and areas over the threshold in one.

    Args:
        measured: by the name to show.
    """
    columns = min(COLUMNS, len(measured))
    rows = -(-len(measured) // columns)
    size = (SIDE * (columns + CURVES_WIDTH) + 1.2, (SIDE + 0.35) * rows + 0.55)
    figure = Figure(figsize=size, layout="constrained")
    widths = [SIDE * CURVES_WIDTH + 0.3, SIDE * columns + 0.9]
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=widths)[0]
    _draw_areas(left.subplots(), measured)
    axes = list(right.subplots(rows, columns, squeeze=False).flat)
    for axis, (name, field) in zip(axes, measured.items(), strict=False):
        _draw_field(axis, name, field)
    for axis in axes[len(measured) :]:
        axis.set_visible(False)
    bar = right.colorbar(ScalarMappable(_norm(), COLORS), ax=axes, shrink=0.8, extend="min")
    bar.set_label("|d unit / d pixel|, of the largest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.supxlabel(_note([field.area for field in measured.values()]), fontsize=7, color="0.35", wrap=True)
    return figure


def _draw_areas(axis: Axes, measured: Mapping[str, MeasuredField]) -> None:
    """Fraction of the frame over the threshold: networks on frames of several sizes are told apart by shape alone."""
    thresholds = np.geomspace(FLOOR, 1, 61)
    for index, (name, field) in enumerate(measured.items()):
        fractions = [(field.values > threshold).mean() for threshold in thresholds]
        axis.plot(thresholds, 100 * np.array(fractions), color=f"C{index}", linewidth=1.8, label=name)
        axis.plot(field.area.threshold, 100 * field.area.fraction, "o", color=f"C{index}", markersize=5)
    for threshold in {field.area.threshold for field in measured.values()}:
        axis.axvline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(xlim=(FLOOR, 1), ylim=(0, None))
    axis.set_box_aspect(1 / CURVES_WIDTH)
    axis.set_xlabel("threshold, of the largest", fontsize=8)
    axis.set_ylabel("area above it, % of the frame", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, frameon=False)


def _draw_field(axis: Axes, name: str, field: MeasuredField) -> None:
    """The field in pixels of its frame."""
    area = field.area
    axis.imshow(np.maximum(field.values, FLOOR), norm=_norm(), cmap=COLORS, interpolation="nearest")
    axis.contour(field.values, levels=[area.threshold], colors="white", linewidths=0.5)
    axis.set_title(
        f"{name}\n{area.pixels:,} pixels, {100 * area.fraction:.1f} % of {area.frame[1]} x {area.frame[0]}", fontsize=8
    )
    axis.tick_params(labelsize=7)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(5, integer=True))


def _norm() -> LogNorm:
    return LogNorm(FLOOR, 1)


def _note(areas: Sequence[FieldArea]) -> str:
    def values(name: str) -> str:
        return " or ".join(sorted({f"{getattr(area, name)}" for area in areas}))

    return (
        f"Effective receptive field of the central unit of {values('depth')}: mean over {values('num_videos')} videos "
        f"of {values('num_frames')} frames. Contours and dots: area above {values('threshold')} of the largest value."
    )
