"""Pictures of trade-offs: accuracy over cost, and where videos leave over the threshold."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import log10
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lightning_modules.analysis.published_trade_off import PublishedPoint
from lightning_modules.analysis.trade_off import MeasuredTradeOff, OperatingPoint

PANEL = (5.0, 3.9)  # inches
CURVE, CHOSEN, MARKS = "#20507f", "#c8401f", "0.35"
# Exits of one network share a hue, from light to dark.
HUES = ("#2b6cb0", "#d9822b", "#2f8f5b", "#8a4fa3", "#777777")
MARKERS = "DsvP^X"
TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


@dataclass(frozen=True)
class _Axis:
    """One kind of cost: the field it comes from, what the unit is called, and how many of the field's make one."""

    field: Literal["multiply_adds", "seconds"]
    label: str
    unit: float

    def of(self, point: object) -> float:
        return getattr(point, self.field) / self.unit


def draw_trade_off(measured: MeasuredTradeOff, published: Sequence[PublishedPoint] = ()) -> Figure:
    """One test: accuracy over multiply-adds, over time where it is known, and fractions leaving over the threshold.

    Args:
        measured: the test.
        published: to be shown beside it.
    """
    axes_of = _axes([measured])
    width = max(PANEL[0] * len(axes_of), 7.5)
    figure = Figure(figsize=(width, PANEL[1] + 3.0), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[PANEL[1], 3.0])[:, 0]
    for axis, cost in zip(above.subplots(1, len(axes_of), squeeze=False)[0], axes_of, strict=True):
        _draw_networks(axis, measured, cost)
        _draw_curve(axis, measured, cost, CURVE, marker="o", markersize=3)
        _draw_chosen(axis, measured, cost, CHOSEN)
        _label_ends(axis, measured, cost)
        _draw_published(axis, published, cost)
        _finish(axis, cost)
    _draw_exits(below.subplots(), measured)
    figure.supxlabel(_note([measured]), fontsize=7, color=MARKS)
    return figure


def draw_trade_offs(measured: Mapping[str, MeasuredTradeOff], published: Sequence[PublishedPoint] = ()) -> Figure:
    """Several tests, e.g. of several numbers of segments: a curve each, its right end without exits.

    Args:
        measured: by the name to show.
        published: to be shown beside them.
    """
    axes_of = _axes([*measured.values()])
    figure = Figure(figsize=(max(PANEL[0] * len(axes_of), 6.5), PANEL[1] + 0.4), layout="constrained")
    shades = colormaps["viridis"](np.linspace(0.0, 0.82, len(measured)))
    for axis, cost in zip(figure.subplots(1, len(axes_of), squeeze=False)[0], axes_of, strict=True):
        _draw_ends(axis, [*measured.values()], cost)
        for (name, trade_off), color in zip(measured.items(), shades, strict=True):
            _draw_curve(axis, trade_off, cost, color, label=name)
            _draw_chosen(axis, trade_off, cost, color)
        _draw_published(axis, published, cost)
        _finish(axis, cost)
        _zoom(axis, [*measured.values()], published)
    figure.axes[0].legend(fontsize=7, frameon=False, loc="lower right")
    figure.supxlabel(_note([*measured.values()]), fontsize=7, color=MARKS)
    return figure


def _axes(measured: Sequence[MeasuredTradeOff]) -> list[_Axis]:
    """Those of the costs that all tests have measured."""
    most = max(trade_off.without_exits.multiply_adds for trade_off in measured)
    prefix, unit = ("G", 1e9) if most >= 1e9 else ("M", 1e6)
    axes = [_Axis("multiply_adds", f"{prefix} multiply-adds per video", unit)]
    if all(trade_off.timed_videos for trade_off in measured):
        axes.append(_Axis("seconds", "ms per video, decoding included", 1e-3))
    return axes


def _draw_curve(axis: Axes, measured: MeasuredTradeOff, cost: _Axis, color: Any, **style: Any) -> None:
    """A line over all thresholds, a ring at its end."""
    x, y = [cost.of(point) for point in measured.test], [100 * point.top1 for point in measured.test]
    axis.plot(x, y, color=color, linewidth=1.6, zorder=3, **style)
    axis.plot(x[-1], y[-1], "o", color=color, markersize=8, markerfacecolor="white", markeredgewidth=1.8, zorder=4)


def _draw_chosen(axis: Axes, measured: MeasuredTradeOff, cost: _Axis, color: Any) -> None:
    if (chosen := measured.chosen_test) is not None:
        place = cost.of(chosen), 100 * chosen.top1
        axis.plot(*place, "*", color=color, markersize=14, markeredgecolor="white", markeredgewidth=0.8, zorder=5)


def _draw_ends(axis: Axes, measured: Sequence[MeasuredTradeOff], cost: _Axis) -> None:
    """What the number of segments alone does."""
    ends = sorted((cost.of(trade_off.without_exits), 100 * trade_off.without_exits.top1) for trade_off in measured)
    axis.plot(*zip(*ends, strict=True), linestyle="--", linewidth=1, color="0.6", label="no exits", zorder=1)


def _draw_networks(axis: Axes, measured: MeasuredTradeOff, cost: _Axis) -> None:
    for (stream, network), marker in zip(measured.networks.items(), MARKERS, strict=False):
        point = cost.of(network), 100 * network.top1
        axis.plot(*point, marker, color=MARKS, markersize=6, zorder=7)
        _label(axis, f"{stream} alone", point, (7, 0), MARKS, va="center")


def _label_ends(axis: Axes, measured: MeasuredTradeOff, cost: _Axis) -> None:
    whole, chosen = measured.without_exits, measured.chosen_test
    place = cost.of(whole), 100 * whole.top1
    _label(axis, f"no exits\n{100 * whole.top1:.1f} %", place, (9, 0), CURVE, va="center")
    if chosen is not None:
        text = f"τ = {chosen.threshold:g}\n{100 * chosen.top1:.1f} % at {_share(chosen, whole, cost)}"
        _label(axis, text, (cost.of(chosen), 100 * chosen.top1), (-8, 8), CHOSEN, ha="right", va="bottom")


def _draw_published(axis: Axes, published: Sequence[PublishedPoint], cost: _Axis) -> None:
    if published and cost.field == "multiply_adds":
        x, y = [cost.of(point) for point in published], [100 * point.top1 for point in published]
        axis.plot(x, y, "s:", color="black", markerfacecolor="white", markersize=5, linewidth=0.9)
        _label(axis, "published\n(PKD)", (x[0], y[0]), (-7, 0), "black", ha="right", va="center")


def _draw_exits(axis: Axes, measured: MeasuredTradeOff) -> None:
    """Areas over the threshold, stacked from the first exit up; a bar at 1."""
    points = [point for point in measured.test if point.threshold < 1]
    x = [_place(point.threshold) for point in points]
    shares = 100 * np.array([point.exited for point in points]).T
    colors = _exit_colors(measured.exit_names)
    axis.stackplot(x, shares, colors=colors, edgecolor="white", linewidth=0.4, labels=measured.exit_names)
    end = x[-1] + 0.4
    whole = 100 * np.array(measured.without_exits.exited)
    axis.bar(end, whole, width=0.4, bottom=whole.cumsum() - whole, color=colors, edgecolor="white", linewidth=0.4)
    ticks = {_place(tick): f"{tick:g}" for tick in TICKS if tick <= points[-1].threshold}
    axis.set_xticks([*ticks, end], [*ticks.values(), "1"])
    if measured.chosen is not None and measured.chosen < 1:
        axis.axvline(_place(measured.chosen), color=CHOSEN, linewidth=1.4, linestyle="--")
    axis.set(xlim=(x[0], end + 0.2), ylim=(0, 100))
    axis.set_xlabel("threshold τ (dashed: chosen on validation)", fontsize=8)
    axis.set_ylabel("% of videos leaving", fontsize=8)
    axis.tick_params(labelsize=8)
    handles, names = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], names[::-1], fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _place(threshold: float) -> float:
    """Every nine of the threshold takes as much room."""
    return -log10(1 - threshold)


def _exit_colors(exit_names: Sequence[str]) -> list[Any]:
    streams = list(dict.fromkeys(name.split("/")[0] for name in exit_names))
    groups = {stream: [name for name in exit_names if name.startswith(f"{stream}/")] for stream in streams}
    colors: dict[str, Any] = {}
    for stream, hue in zip(streams, (HUES * len(streams))[: len(streams)], strict=True):
        strengths = np.linspace(0.35, 1.0, len(groups[stream])) if len(groups[stream]) > 1 else [1.0]
        for name, strength in zip(groups[stream], strengths, strict=True):
            colors[name] = tuple(1 - strength * (1 - channel) for channel in to_rgb(hue))
    return [colors[name] for name in exit_names]


def _finish(axis: Axes, cost: _Axis) -> None:
    axis.set_xscale("log")
    axis.margins(x=0.05, y=0.1)
    low, high = axis.get_xlim()
    # Room for labels, to the right and above.
    high *= (high / low) ** 0.15
    digits: tuple[float, ...] = (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axis.xaxis.set_major_locator(FixedLocator([digit * 10.0**power for power in range(-4, 8) for digit in digits]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlim(low, high)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top + 0.06 * (top - bottom))
    axis.set_xlabel(cost.label, fontsize=8)
    axis.set_ylabel("test top-1, %", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _zoom(axis: Axes, measured: Sequence[MeasuredTradeOff], published: Sequence[PublishedPoint]) -> None:
    """To where curves differ; the foot of one is its first exit alone."""
    ends = [*(trade_off.without_exits.top1 for trade_off in measured), *(point.top1 for point in published)]
    low, high = axis.dataLim.intervaly
    bottom = max(low, 100 * min(ends) - 12)
    axis.set_ylim(bottom - 1, high + 1)
    places = np.concatenate([np.asarray(line.get_xydata()) for line in axis.get_lines()])
    axis.set_xlim(left=0.85 * places[places[:, 1] >= bottom, 0].min())


def _label(axis: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], color: str, **how: Any) -> None:
    halo = [Stroke(linewidth=2, foreground="white"), Normal()]
    options: Any = {"textcoords": "offset points", "fontsize": 7.5, "color": color, "zorder": 2.5}
    axis.annotate(text, place, offset, path_effects=halo, **options, **how)


def _share(point: OperatingPoint, whole: OperatingPoint, cost: _Axis) -> str:
    return f"{100 * cost.of(point) / cost.of(whole):.0f} % of the cost"


def _note(measured: Sequence[MeasuredTradeOff]) -> str:
    videos, segments = ({getattr(test, name) for test in measured} for name in ("num_videos", "num_segments"))
    chosen = (
        f"the threshold of the least cost that loses at most {_either({test.max_loss for test in measured})} points"
    )
    note = f"{_either(videos)} test videos, {_either(segments)} segments; star: {chosen} of validation accuracy"
    if all(test.timed_videos for test in measured):
        batches, timed = ({getattr(test, name) for test in measured} for name in ("timed_batch", "timed_videos"))
        note += f"; time of {_either(timed)} videos, {_either(batches)} at a time"
    return note


def _either(values: Set[float]) -> str:
    """{5, 1, 3} -> "1, 3 or 5"."""
    *others, last = [f"{value:g}" for value in sorted(values)]
    return " or ".join([", ".join(others), last]) if others else last
