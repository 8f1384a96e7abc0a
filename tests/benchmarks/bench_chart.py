"""The benchmark's rows as a picture: a bar for each ratio, its quartiles, and what it is to be."""

from collections.abc import Sequence

from bench_rows import Row, three_digits
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR, WIDTH = 0.24, 11.0  # inches
COLORS = {"": "#7a8a99", "yes": "#2f8f5b", "no": "#c8401f"}


def draw(rows: Sequence[Row], note: str) -> Figure:
    """One panel a part, on a logarithmic scale around 1.

    Args:
        rows: of all parts.
        note: hardware and versions.
    """
    parts = list(dict.fromkeys(each.part for each in rows))
    counts = [sum(each.part == part for each in rows) for part in parts]
    figure = Figure(figsize=(WIDTH, BAR * sum(counts) + 0.5 * len(parts) + 0.5), layout="constrained")
    axes = figure.subplots(len(parts), 1, height_ratios=[count + 1 for count in counts], squeeze=False)[:, 0]
    for part, axis in zip(parts, axes, strict=True):
        _panel(axis, part, [each for each in rows if each.part == part and each.ratio > 0])
    figure.supxlabel(f"{note}. Ratios, medians and quartiles; | what is aimed at, green where it holds", fontsize=7)
    return figure


def _panel(axis: Axes, part: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    ratios = [each.ratio for each in rows]
    errors = [[max(each.ratio - each.low, 0) for each in rows], [max(each.high - each.ratio, 0) for each in rows]]
    colors = [COLORS[each.verdict.rpartition(": ")[2]] for each in rows]
    axis.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colors, height=0.7)
    axis.errorbar(ratios, places, xerr=errors, fmt="none", ecolor="0.2", elinewidth=0.8)
    for place, each in zip(places, rows, strict=True):
        axis.text(1.005, place, three_digits(each.ratio), transform=axis.get_yaxis_transform(), va="center", fontsize=6)
        if each.target is not None:
            axis.plot([each.target] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
    axis.set_yticks(places, [f"{each.job}  /  {each.over}" for each in rows], fontsize=6)
    axis.set_xscale("log")
    axis.axvline(1, color="0.2", linewidth=0.6)
    axis.tick_params(axis="x", labelsize=6)
    axis.set_title(part, loc="left", fontsize=8)
    axis.invert_yaxis()
