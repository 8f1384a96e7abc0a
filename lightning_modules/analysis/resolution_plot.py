"""Pictures of resolution sweeps: the metric over resolution and over cost, and speed against cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lightning_modules.analysis.cost import Convention
from lightning_modules.analysis.published_resolutions import PublishedResolution
from lightning_modules.analysis.resolution_sweep import MeasuredResolutions, ResolutionPoint, cost_in
from lightning_modules.analysis.resolution_table import conditions_of

PANEL = (4.3, 3.7)  # inches
COLORS = ("#20507f", "#c8401f", "#2f8f5b", "#8a4fa3", "#d9822b", "#777777")
MARKERS = "oDsvP^"
PUBLISHED_MARKERS = "sDv^P"
COST_LABELS: Mapping[str, str] = {
    "paper": "FLOPs per video, as ResKD's tables count",
    "multiply_adds": "multiply-adds per video",
}


@dataclass(frozen=True)
class _Place:
    """A dot, ours or published: sizes in pixels, cost in operations of a video, score in percent, videos a second."""

    size: int | None
    input_size: int | None
    cost: float
    score: float
    speed: float | None


@dataclass(frozen=True)
class _Line:
    """Dots of one series, and how they are drawn."""

    name: str
    places: Sequence[_Place]
    style: dict[str, Any]

    @property
    def means(self) -> list[_Place]:
        """One place for each size: several runs may differ by their seeds alone."""
        groups = groupby(self.places, key=lambda place: (place.size, place.input_size, place.cost))
        return [_mean(list(places)) for _, places in groups]


def draw_resolutions(
    sweep: MeasuredResolutions,
    published: Sequence[PublishedResolution] = (),
    *,
    convention: Convention = "paper",
) -> Figure:
    """Metric over resolution (Fig. 1 of ResKD), over cost (Fig. 3), and if it was timed speed over cost (Table 4).

    Args:
        sweep: the points.
        published: to be shown beside them.
        convention: what cost is, of ``resolution_sweep.COSTS``; published costs are of ``paper`` or nearly so.
    """
    lines = _lines(sweep, convention)
    others = _published_lines(published)
    panels = 3 if sweep.is_timed else 2
    figure = Figure(figsize=(PANEL[0] * panels, PANEL[1] + 0.75), layout="constrained")
    axes = figure.subplots(1, panels)
    _draw_sizes(axes[0], [*lines, *others], sweep.metric)
    _draw_costs(axes[1], [*lines, *others], sweep.metric, convention)
    if sweep.is_timed:
        _draw_gains(axes[2], [*lines, *others])
    handles, names = axes[1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols={2: 2, 3: 4}[panels], fontsize=8, frameon=False)
    figure.supxlabel(_note(sweep, published), fontsize=7, color="0.35", wrap=True)
    return figure


def _lines(sweep: MeasuredResolutions, convention: Convention) -> list[_Line]:
    return [
        _Line(
            name,
            [_place(point, convention) for point in points],
            {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "linewidth": 1.6},
        )
        for index, (name, points) in enumerate(sweep.by_series.items())
    ]


def _published_lines(published: Sequence[PublishedResolution]) -> list[_Line]:
    series = dict.fromkeys(point.series for point in published)
    return [
        _Line(
            f"published: {name}",
            [
                _Place(point.size, point.size, 1e9 * point.gflops, 100 * point.score, point.videos_per_second)
                for point in published
                if point.series == name
            ],
            {
                "color": "0.35",
                "marker": PUBLISHED_MARKERS[index % len(PUBLISHED_MARKERS)],
                "markerfacecolor": "white",
                "linewidth": 0.8,
                "linestyle": ":",
            },
        )
        for index, name in enumerate(series)
    ]


def _place(point: ResolutionPoint, convention: Convention) -> _Place:
    speed = None if point.throughput is None else point.throughput.videos_per_second
    return _Place(point.size, point.input_size, cost_in(point, convention), 100 * point.score, speed)


def _mean(places: Sequence[_Place]) -> _Place:
    first, score = places[0], mean(place.score for place in places)
    speeds = [place.speed for place in places if place.speed is not None]
    return _Place(first.size, first.input_size, first.cost, score, mean(speeds) if speeds else None)


def _draw_sizes(axis: Axes, lines: Sequence[_Line], metric: str) -> None:
    sizes = set()
    for line in lines:
        means = [place for place in line.means if place.size is not None]
        if means:
            _draw(axis, line, [(place.size, place.score) for place in line.places], means, lambda place: place.size)
            sizes |= {place.size for place in means}
    axis.set_xticks(sorted(sizes))
    axis.set_xlabel("short side of the frames, pixels", fontsize=8)
    _finish(axis, metric)


def _draw_costs(axis: Axes, lines: Sequence[_Line], metric: str, convention: Convention) -> None:
    most = max(place.cost for line in lines for place in line.places)
    prefix, unit = ("G", 1e9) if most >= 1e9 else ("M", 1e6)
    for line in lines:
        means = line.means
        _draw(axis, line, [(p.cost / unit, p.score) for p in line.places], means, lambda place: place.cost / unit)
        for place in means:
            if place.size is not None:
                _label(axis, str(place.size), (place.cost / unit, place.score), line.style["color"])
    _log(axis.xaxis, [place.cost / unit for line in lines for place in line.places])
    label = COST_LABELS[convention]
    axis.set_xlabel(f"{prefix}{'' if label.startswith('FLOPs') else ' '}{label}", fontsize=8)
    _finish(axis, metric)


def _draw_gains(axis: Axes, lines: Sequence[_Line]) -> None:
    """On the dashed line a network gets as many times faster as it gets cheaper."""
    cheaper: list[float] = []
    faster: list[float] = []
    for line in lines:
        means = line.means
        dearest = max(means, key=lambda place: place.cost)
        if len(means) < 2 or any(place.speed is None for place in means) or dearest.cost == means[0].cost:
            continue
        places = [(dearest.cost / p.cost, p.speed / dearest.speed, p.size) for p in means]  # type: ignore[operator]
        axis.plot([x for x, _, _ in places], [y for _, y, _ in places], **line.style, markersize=5)
        for x, y, size in places:
            _label(axis, str(size), (x, y), line.style["color"])
        cheaper += [x for x, _, _ in places]
        faster += [y for _, y, _ in places]
    most = max([*cheaper, *faster, 2.0])
    axis.plot([1, most], [1, most], "--", color="0.6", linewidth=0.9, zorder=1)
    _log(axis.xaxis, [1, *cheaper])
    _log(axis.yaxis, [1, *faster])
    axis.set_xlabel("times cheaper than the dearest of its line", fontsize=8)
    axis.set_ylabel("times more videos a second", fontsize=8)
    _style(axis)


def _draw(axis: Axes, line: _Line, dots: Sequence[Any], means: Sequence[_Place], x_of: Any) -> None:
    """A line through means; where several runs make one, each of them as a faint dot."""
    xs = [x_of(place) for place in means]
    axis.plot(xs, [place.score for place in means], **line.style, markersize=5, label=line.name, zorder=3)
    if len(dots) > len(means):
        axis.plot(*zip(*dots, strict=True), ".", color=line.style["color"], alpha=0.4, markersize=5, zorder=2)


def _label(axis: Axes, text: str, place: tuple[float, float], color: str) -> None:
    halo = [Stroke(linewidth=2, foreground="white"), Normal()]
    options: Any = {"textcoords": "offset points", "fontsize": 7, "color": color, "zorder": 4}
    axis.annotate(text, place, (5, -8), path_effects=halo, **options)


def _log(axis: Any, values: Sequence[float]) -> None:
    """Round numbers on a logarithmic axis, written plainly."""
    low, high = min(values), max(values)
    digits: tuple[float, ...] = (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(FixedLocator([digit * 10.0**power for power in range(-4, 8) for digit in digits]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    margin = max(high / low, 1.2) ** 0.08
    axis.axes.set(**{f"{axis.axis_name}lim": (low / margin, high * margin)})


def _finish(axis: Axes, metric: str) -> None:
    axis.set_ylabel({"top1": "test top-1, %", "mAP": "test mAP, %"}[metric], fontsize=8)
    axis.margins(y=0.12)
    _style(axis)


def _style(axis: Axes) -> None:
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _note(sweep: MeasuredResolutions, published: Sequence[PublishedResolution]) -> str:
    note = f"{sweep.num_videos} test videos; numbers at dots: short side in pixels"
    if _differ_in_cost(sweep):
        note += ". At one resolution lines differ in cost: the second panel compares at equal cost"
    if conditions := conditions_of(sweep):
        note += f". Throughput: {conditions}"
    if sweep.is_timed and (devices := {point.device for point in published if point.device}):
        note += f"; published on {' and '.join(sorted(devices))}"
    return f"{note}."


def _differ_in_cost(sweep: MeasuredResolutions) -> bool:
    """Whether some points of one size cost more than others, e.g. those of a network with smaller strides."""
    costs = {(point.size, point.paper) for point in sweep.points}
    return len(costs) > len({point.size for point in sweep.points})
