"""The trade-off that the paper's authors publish, for data sets that are theirs: ``published_trade_off.csv``."""

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class PublishedPoint:
    """One number of segments, at thresholds near 1.

    Args:
        top1: accuracy, 0 to 1.
        multiply_adds: of a video; decoding is not counted.
        source: where it was published.
    """

    top1: float
    multiply_adds: float
    source: str


def published_points(data_set: str) -> list[PublishedPoint]:
    """Those of a data set by rising cost; none of most.

    Args:
        data_set: name of the annotations' class, e.g. ``UCF101``.
    """
    with open(FILE, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["data_set"] == data_set]
    points = [PublishedPoint(float(row["top1"]), float(row["multiply_adds"]), row["source"]) for row in rows]
    return sorted(points, key=lambda point: point.multiply_adds)
