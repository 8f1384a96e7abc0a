"""Resolution sweeps as CSV and as a table to read, in columns of one's choice."""

import csv
from collections.abc import Iterator, Sequence
from typing import IO, Any

from rich.table import Table

from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.resolution_sweep import MeasuredResolutions, ResolutionPoint, gains

COLUMNS = (
    "run",
    "series",
    "size",
    "input_size",
    "metric",
    "score",
    "multiply_adds",
    "paper",
    "cost_gain",
    "videos_per_second",
    "throughput_gain",
    "conditions",
)
# Of a table to read: heading, unit, format.
SHOWN: dict[str, tuple[str, float, str]] = {
    "run": ("run", 1, ""),
    "series": ("series", 1, ""),
    "size": ("size", 1, ""),
    "input_size": ("computes on", 1, ""),
    "metric": ("metric", 1, ""),
    "score": ("score, %", 0.01, ".2f"),
    "multiply_adds": ("M multiply-adds", 1e6, ",.1f"),
    "paper": ("MFLOPs (paper)", 1e6, ",.1f"),
    "cost_gain": ("times cheaper", 1, ".2f"),
    "videos_per_second": ("videos/s", 1, ".1f"),
    "throughput_gain": ("times faster", 1, ".2f"),
    "conditions": ("measured on", 1, ""),
}

Row = dict[str, Any]


def write_table(file: IO[str], sweep: MeasuredResolutions, columns: Sequence[str] = COLUMNS) -> None:
    """Write a row per point, and one per published point of the data set, whose series names its source.

    Costs are of a video; ``cost_gain`` and ``throughput_gain`` are factors over the dearest point of the series, the
    first by the convention ``paper``. What is not known is empty.

    Args:
        file: open for writing text.
        sweep: what to write.
        columns: of ``COLUMNS``, in order.

    Raises:
        ValueError: an unknown column.
    """
    _check(columns)
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_rows(sweep))
    writer.writerows(_published_rows(sweep))


def table_of(sweep: MeasuredResolutions, columns: Sequence[str] | None = None) -> Table:
    """A row per point.

    Args:
        sweep: what to show.
        columns: of ``COLUMNS``, in order; None: those that tell points apart.

    Raises:
        ValueError: an unknown column.
    """
    rows = list(_rows(sweep))
    if columns is None:
        known = [column for column in COLUMNS if any(row[column] not in ("", None) for row in rows)]
        columns = [column for column in known if column not in ("metric", "conditions")]
    _check(columns)
    headings = {column: SHOWN[column][0] for column in columns} | {"score": f"{sweep.metric} %"}
    table = Table(*(headings[column] for column in columns))
    for row in rows:
        table.add_row(*(_cell(row, column) for column in columns))
    return table


def conditions_of(sweep: MeasuredResolutions) -> str:
    """Under which throughput was measured; "" where it was not."""
    found = dict.fromkeys(point.throughput.conditions for point in sweep.points if point.throughput is not None)
    return "; or ".join(found)


def _rows(sweep: MeasuredResolutions) -> Iterator[Row]:
    for points in sweep.by_series.values():
        for point, gain in zip(points, gains(points), strict=True):
            yield {
                **{name: value for name, value in vars(point).items() if name != "throughput"},
                "metric": sweep.metric,
                "cost_gain": gain.cost,
                "throughput_gain": gain.throughput,
                **_speed(point),
            }


def _speed(point: ResolutionPoint) -> Row:
    timed = point.throughput
    return {
        "videos_per_second": None if timed is None else timed.videos_per_second,
        "conditions": "" if timed is None else timed.conditions,
    }


def _published_rows(sweep: MeasuredResolutions) -> Iterator[Row]:
    for point in published_resolutions(sweep.data_set, sweep.metric):
        yield {
            "series": f"{point.series} ({point.source})",
            "size": point.size,
            "input_size": point.size,
            "metric": point.metric,
            "score": point.score,
            "paper": 1e9 * point.gflops,
            "videos_per_second": point.videos_per_second,
            "conditions": point.device,
        }


def _cell(row: Row, column: str) -> str:
    value, (_, unit, form) = row[column], SHOWN[column]
    if value in ("", None):
        return ""
    return f"{value / unit:{form}}" if form else str(value)


def _check(columns: Sequence[str]) -> None:
    if not columns or not set(columns) <= set(COLUMNS):
        raise ValueError(f"expected `columns` of {list(COLUMNS)}, came {list(columns)}")
