"""What the benchmark aims at as a picture: a bar for each ratio, its quartiles, and what it is to be."""

from collections.abc import Sequence

from bench_rows import Row, three_digits
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

BAR, WIDTH = 0.24, 11.0  # inches
COLORS = {"yes": "#2f8f5b", "no": "#c8401f"}


def draw(rows: Sequence[Row], note: str) -> Figure:
    """The rows at which something is aimed, on a logarithmic scale around 1.

    Args:
        rows: of all parts.
        note: hardware and versions.
    """
    aimed = [each for each in rows if each.target is not None and each.ratio > 0]
    figure = Figure(figsize=(WIDTH, BAR * len(aimed) + 1.2), layout="constrained")
    _draw_bars(figure.subplots(), aimed)
    figure.suptitle("Medians and quartiles of ratios; | what is aimed at, green where it holds", fontsize=8)
    figure.supxlabel(note, fontsize=7)
    return figure


def _draw_bars(axis: Axes, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    ratios = [each.ratio for each in rows]
    errors = [[max(each.ratio - each.low, 0) for each in rows], [max(each.high - each.ratio, 0) for each in rows]]
    colors = [COLORS[each.verdict.rpartition(": ")[2]] for each in rows]
    axis.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colors, height=0.7)
    axis.errorbar(ratios, places, xerr=errors, fmt="none", ecolor="0.2", elinewidth=0.8)
    for place, each in zip(places, rows, strict=True):
        axis.text(1.01, place, three_digits(each.ratio), transform=axis.get_yaxis_transform(), va="center", fontsize=7)
        axis.plot([each.target] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
    axis.set_yticks(places, [f"{each.job}  /  {each.over}" for each in rows], fontsize=7)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.axvline(1, color="0.2", linewidth=0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.invert_yaxis()
