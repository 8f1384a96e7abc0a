"""What the benchmark aims at as a picture: a dot for each ratio, its quartiles, and what it is to be."""

import re
from collections.abc import Sequence

from bench_rows import Row, three_digits
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LINE, WIDTH = 0.24, 10.0  # inches
COLORS = {"yes": "#2f8f5b", "no": "#c8401f"}
# Where the dot is wanted: on the side that the triangle points to.
TARGETS = {"at least": ">", "at most": "<"}
# Absolute figures of what a job is compared with, which stand in the table.
FIGURES = re.compile(r", [\d.]+ ms.*")


def draw(rows: Sequence[Row], note: str) -> Figure:
    """The rows at which something is aimed.

    Args:
        rows: of all parts.
        note: hardware and versions.
    """
    aimed = [each for each in rows if each.target is not None]
    figure = Figure(figsize=(WIDTH, LINE * len(aimed) + 1.2), layout="constrained")
    _draw_dots(figure.subplots(), aimed)
    title = "Ratios: medians and quartiles. A triangle stands at the ratio aimed at, and points to where it is wanted"
    figure.suptitle(title, fontsize=8)
    figure.supxlabel(note, fontsize=7)
    return figure


def _draw_dots(axis: Axes, rows: Sequence[Row]) -> None:
    for place, each in enumerate(rows):
        color = COLORS[each.verdict.rpartition(": ")[2]]
        axis.axhline(place, color="0.93", linewidth=0.6, zorder=0)
        axis.hlines(place, each.low, each.high, color=color, linewidth=2.5, alpha=0.5)
        axis.plot(each.ratio, place, "o", color=color, markersize=5)
        axis.plot(each.target, place, TARGETS[each.bound], color="black", markersize=4, fillstyle="none")
        axis.text(1.01, place, three_digits(each.ratio), transform=axis.get_yaxis_transform(), va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [f"{each.job}  /  {FIGURES.sub('', each.over)}" for each in rows], fontsize=7)
    axis.axvline(1, color="0.6", linewidth=0.6, zorder=0)
    axis.set_xlim(left=-0.05)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
