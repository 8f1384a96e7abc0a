"""What ResKD's authors and their competitors publish, for data sets that are theirs: ``published_resolutions.csv``.

Of ResKD's tables, and of what the authors of FrameExit and OCSampler themselves publish (figures in their public code
and abstract); GFLOPs as each counts them. Nothing is read off figures.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.analysis.resolution_sweep import Metric

FILE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class PublishedResolution:
    """One point.

    Args:
        method: e.g. ``ResKD``; ``labels alone`` for its baselines.
        network: e.g. ``ResNet-50``.
        size: side of the frames, pixels; None where it varies.
        frames: of a view; None where they vary.
        metric: what ``score`` is.
        score: 0 to 1.
        gflops: of a video, as published.
        videos_per_second: None where it was not published.
        device: of the throughput; "" where there is none.
        source: where it was published.
    """

    method: str
    network: str
    size: int | None
    frames: int | None
    metric: str
    score: float
    gflops: float
    videos_per_second: float | None
    device: str
    source: str

    @property
    def series(self) -> str:
        """What stands on one line of a picture."""
        return f"{self.method}, {self.network}"


def published_resolutions(data_set: str, metric: Metric) -> list[PublishedResolution]:
    """Those of a data set and metric, by series and rising cost; none of most.

    Args:
        data_set: name of the annotations' class, e.g. ``ActivityNet``.
        metric: the one that ours have.
    """
    with open(FILE, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["data_set"], row["metric"]) == (data_set, metric)]
    return sorted(map(_point, rows), key=lambda point: (point.series, point.gflops))


def _point(row: dict[str, str]) -> PublishedResolution:
    return PublishedResolution(
        method=row["method"],
        network=row["network"],
        size=int(row["size"]) if row["size"] else None,
        frames=int(row["frames"]) if row["frames"] else None,
        metric=row["metric"],
        score=float(row["score"]),
        gflops=float(row["gflops"]),
        videos_per_second=float(row["videos_per_second"]) if row["videos_per_second"] else None,
        device=row["device"],
        source=row["source"],
    )
