"""Measured trade-offs as CSV and as a table to read."""

import csv
from collections.abc import Iterator, Mapping
from typing import IO, Any

from rich.table import Table

from lightning_modules.analysis.published_trade_off import published_points
from lightning_modules.analysis.trade_off import MeasuredTradeOff, OperatingPoint

# Those of the thresholds that a person looks at.
SHOWN = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
COLUMNS = ["run", "series", "segments", "views", "threshold", "chosen", "top1", "multiply_adds", "seconds"]

Row = dict[str, Any]


def write_table(file: IO[str], measured: Mapping[str, MeasuredTradeOff]) -> None:
    """Write a row per run, split and threshold; per network alone; per published point.

    ``series`` is ``test``, ``validation``, ``<stream> alone`` or the source of what is published; ``exited/<exit>`` is
    the fraction of videos that leave there, ``seconds`` are of a video; what is not known is empty.

    Args:
        file: open for writing text.
        measured: by the run's name.
    """
    exits = dict.fromkeys(f"exited/{name}" for trade_off in measured.values() for name in trade_off.exit_names)
    writer = csv.DictWriter(file, [*COLUMNS, *exits], restval="")
    writer.writeheader()
    for run, trade_off in measured.items():
        writer.writerows({"run": run, **row} for row in _rows(trade_off))
    for data_set in dict.fromkeys(trade_off.data_set for trade_off in measured.values()):
        writer.writerows(_published_rows(data_set))


def table_of(measured: Mapping[str, MeasuredTradeOff]) -> Table:
    """Test points at round thresholds and at the one chosen, which has a star.

    Args:
        measured: by the run's name.
    """
    table = Table("run", "segments", "threshold", "top-1 %", "M multiply-adds", "%", "ms", "%", "fractions leaving, %")
    for run, trade_off in measured.items():
        for point in trade_off.test:
            if point.threshold in (*SHOWN, trade_off.chosen):
                table.add_row(run, str(trade_off.num_segments), *_cells(point, trade_off))
        table.add_section()
    return table


def _rows(trade_off: MeasuredTradeOff) -> Iterator[Row]:
    size = {"segments": trade_off.num_segments, "views": trade_off.num_views}
    for series, points in {"validation": trade_off.validation, "test": trade_off.test}.items():
        for point in points:
            values = {name: value for name, value in vars(point).items() if name != "exited"}
            exited = zip(trade_off.exit_names, point.exited, strict=True)
            fractions = {f"exited/{name}": fraction for name, fraction in exited}
            yield {"series": series, **size, "chosen": int(point.threshold == trade_off.chosen), **values, **fractions}
    for stream, network in trade_off.networks.items():
        yield {"series": f"{stream} alone", **size, **vars(network)}


def _published_rows(data_set: str) -> Iterator[Row]:
    for point in published_points(data_set):
        yield {"series": point.source, "top1": point.top1, "multiply_adds": point.multiply_adds}


def _cells(point: OperatingPoint, trade_off: MeasuredTradeOff) -> list[str]:
    whole = trade_off.without_exits
    times = ["", ""]
    if point.seconds is not None and whole.seconds is not None:
        times = [f"{1e3 * point.seconds:.2f}", f"{100 * point.seconds / whole.seconds:.0f}"]
    return [
        f"{point.threshold:g}" + "*" * (point.threshold == trade_off.chosen),
        f"{100 * point.top1:.2f}",
        f"{point.multiply_adds / 1e6:,.1f}",
        f"{100 * point.multiply_adds / whole.multiply_adds:.0f}",
        *times,
        " ".join(f"{100 * fraction:.0f}" for fraction in point.exited),
    ]
