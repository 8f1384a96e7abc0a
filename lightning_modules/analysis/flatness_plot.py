"""Pictures of flatness: loss slices of networks of one architecture on equal axes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lightning_modules.analysis.flatness import WHY_EQUAL, MeasuredFlatness, check_comparable

SIDE = 2.9  # inches of a panel
LINES_WIDTH = 1.35  # panels
COLORS = "viridis"
NUM_LEVELS = 13


def draw_comparison(measured: Mapping[str, MeasuredFlatness]) -> Figure:
    """Networks side by side, e.g. before and after distillation: 1-D slices in one panel, 2-D slices in one each.

    Args:
        measured: by the name to show.

    Raises:
        ValueError: they have different parameters, or were measured on different numbers of samples.
    """
    check_comparable(measured)
    return _draw([measured])


def draw_flatness(measured: Mapping[str, MeasuredFlatness]) -> Figure:
    """All networks of a run, a row for each architecture: what stands in one row may be compared.

    Args:
        measured: by the name to show.
    """
    rows: dict[tuple[object, ...], dict[str, MeasuredFlatness]] = {}
    for name, flatness in measured.items():
        rows.setdefault((*flatness.shapes.items(),), {})[name] = flatness
    return _draw([*rows.values()])


def _draw(rows: Sequence[Mapping[str, MeasuredFlatness]]) -> Figure:
    columns = max(map(len, rows))
    size = (SIDE * (LINES_WIDTH + columns) + 0.9, (SIDE + 0.4) * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    # Each row is laid out by itself: the panels of a short one stay together.
    for row, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
        axes = part.subplots(1, 1 + columns, width_ratios=[LINES_WIDTH, *[1.0] * columns])
        _draw_lines(axes[0], row)
        _draw_planes(part, axes[1:], row)
    samples = sorted({flatness.trace.num_samples for row in rows for flatness in row.values()})
    note = f"Loss on {' or '.join(map(str, samples))} samples, BatchNorm in eval mode. {WHY_EQUAL}"
    figure.supxlabel(note, fontsize=7, color="0.35", wrap=True)
    return figure


def _draw_lines(axis: Axes, row: Mapping[str, MeasuredFlatness]) -> None:
    """The mean over directions as a thick line, each of them as a thin one."""
    for index, (name, flatness) in enumerate(row.items()):
        steps, losses = np.array(flatness.lines.steps), np.array(flatness.lines.losses)
        axis.plot(steps, losses.T, color=f"C{index}", linewidth=0.7, alpha=0.45)
        axis.plot(steps, losses.mean(0), color=f"C{index}", linewidth=2, label=_describe(name, flatness))
    axis.set_yscale("log")
    axis.set_box_aspect(1 / LINES_WIDTH)
    _label_plainly(axis)
    axis.set_xlim(steps[0], steps[-1])
    axis.set_xlabel("step along random directions, filter-normalised", fontsize=8)
    axis.set_ylabel("cross-entropy", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7, frameon=False)


def _draw_planes(figure: FigureBase, axes: Sequence[Axes], row: Mapping[str, MeasuredFlatness]) -> None:
    """Contours at the same levels and in the same colours all along the row."""
    losses = [np.array(flatness.plane.losses) for flatness in row.values()]
    norm, levels = _levels(losses)
    for axis, (name, flatness), values in zip(axes, row.items(), losses, strict=False):
        steps = flatness.plane.steps
        axis.contourf(steps, steps, values, levels=levels, norm=norm, cmap=COLORS, extend="both")
        axis.contour(steps, steps, values, levels=levels, colors="white", linewidths=0.5, alpha=0.7)
        axis.plot(0, 0, marker="+", color="white", markersize=8)
        axis.set_title(name, fontsize=9)
        axis.set_aspect("equal")
        axis.tick_params(labelsize=8)
        axis.set_xlabel("first direction", fontsize=8)
        axis.set_ylabel("second direction", fontsize=8)
    for axis in axes[len(row) :]:
        axis.set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, COLORS), ax=list(axes[: len(row)]), shrink=0.8, extend="both")
    bar.ax.tick_params(labelsize=8)
    bar.set_label("cross-entropy", fontsize=8)
    _label_plainly(bar.ax)


def _levels(losses: Sequence[np.ndarray]) -> tuple[Normalize, np.ndarray]:
    """Levels in geometric steps from the lowest loss to where nine tenths of all lie below."""
    values = np.concatenate([loss.ravel() for loss in losses])
    values = values[np.isfinite(values)]
    low = max(float(values.min()), 1e-6)
    high = max(float(np.quantile(values, 0.9)), 1.01 * low)
    return LogNorm(low, high), np.geomspace(low, high, NUM_LEVELS)


def _label_plainly(axis: Axes) -> None:
    """A few round numbers, written as 0.2 rather than 2 x 10^-1; over long ranges 1, 2, 3 and 5 of each decade."""
    low, high = axis.get_ylim()
    decades = FixedLocator([digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 3, 5)])
    axis.yaxis.set_major_locator(decades if high > 10 * low else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _describe(name: str, flatness: MeasuredFlatness) -> str:
    trace, top = flatness.trace, flatness.top_eigenvalue
    return f"{name}: trace {trace.value:.3g} ± {trace.standard_error:.2g}, top eigenvalue {top.value:.3g}"
