"""Accuracy against cost of early exits: what each threshold gives, and the cheapest that loses little.

Soufleri et al. (arXiv 2407.02713), section 3, take thresholds so near to 1 that exits save a hundredth of the cost, and
draw their curve over the number of segments. Ours is over thresholds at fixed segments, with the fraction of videos
that leave at each exit; curves of several numbers of segments go side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules.ensemble import combine, exit_at, take

# 0 to 0.95 in even steps; from there the distance to 1 shrinks by a fifth of a decade a step, down to a millionth.
THRESHOLDS = (
    *(round(0.05 * step, 2) for step in range(20)),
    *(round(1 - 10 ** (-step / 5), 7) for step in range(7, 31)),
    1.0,
)


@dataclass(frozen=True)
class OperatingPoint:
    """What the videos of a split get at one threshold.

    Args:
        threshold: softmax probability above which a video leaves.
        top1: accuracy, 0 to 1.
        multiply_adds: mean over videos, all frames and views.
        seconds: mean over videos of the time to their exits, decoding included; None where it was not measured.
        exited: fractions of the videos that leave at each of K exits.
    """

    threshold: float
    top1: float
    multiply_adds: float
    seconds: float | None
    exited: tuple[float, ...]


@dataclass(frozen=True)
class NetworkPoint:
    """What a single network gives without internal classifiers; as of ``OperatingPoint``."""

    top1: float
    multiply_adds: float
    seconds: float | None


@dataclass(frozen=True)
class ExitCosts:
    """What a video costs that goes on to each of K exits, and leaves there.

    Args:
        multiply_adds: rising, all frames and views.
        seconds: rising, decoding included; None where they were not measured.
    """

    multiply_adds: Sequence[float]
    seconds: Sequence[float] | None = None


@dataclass(frozen=True)
class MeasuredTradeOff:
    """A test of one ensemble at all thresholds.

    Args:
        exit_names: K names.
        num_segments: frames of a view.
        num_views: views of a video.
        num_videos: of the test split.
        timed_videos: of the test split on which seconds were measured; 0: they were not.
        timed_batch: how many of them at a time.
        max_loss: points (hundredths) of validation accuracy that the choice of a threshold may lose.
        chosen: the threshold, chosen on the validation split; None where there is none.
        validation: by rising threshold; empty where there is no such split.
        test: by rising threshold, the last is 1: no exits.
        networks: by stream, each network alone.
        data_set: name of the annotations' class, e.g. ``UCF101``.
    """

    exit_names: Sequence[str]
    num_segments: int
    num_views: int
    num_videos: int
    timed_videos: int
    timed_batch: int
    max_loss: float
    chosen: float | None
    validation: Sequence[OperatingPoint]
    test: Sequence[OperatingPoint]
    networks: Mapping[str, NetworkPoint]
    data_set: str

    @property
    def without_exits(self) -> OperatingPoint:
        """All exits computed for all videos."""
        return self.test[-1]

    @property
    def chosen_test(self) -> OperatingPoint | None:
        """What the threshold chosen on the validation split gives on the test split."""
        return next((point for point in self.test if point.threshold == self.chosen), None)

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "MeasuredTradeOff":
        """What ``to_record`` gave."""
        points = {split: [_point(point) for point in record[split]] for split in ("validation", "test")}
        networks = {stream: NetworkPoint(**point) for stream, point in record["networks"].items()}
        return cls(**{**record, **points, "networks": networks})


def sweep(
    logits: Tensor, labels: Tensor, weights: Tensor, costs: ExitCosts, thresholds: Sequence[float] = THRESHOLDS
) -> list[OperatingPoint]:
    """Let N videos leave at each of several thresholds.

    Args:
        logits: (K, N, C) float, of each exit alone.
        labels: (N,) int64.
        weights: (K, K) float, by which the exits are combined.
        costs: of each exit.
        thresholds: from 0 to 1.

    Raises:
        ValueError: no videos, or a threshold outside [0, 1].
    """
    if len(labels) == 0:
        raise ValueError("expected at least one video, came none")
    outputs = combine(logits, weights)
    return [_operate(outputs, labels, costs, threshold) for threshold in thresholds]


def choose_threshold(points: Sequence[OperatingPoint], max_loss: float) -> float:
    """The threshold of the least cost that loses at most so much accuracy against no exits; for validation points.

    Every cost rises with the threshold, so the choice is the same by multiply-adds, by seconds and by number of exits.

    Args:
        points: one has the threshold 1.
        max_loss: points (hundredths) of accuracy.
    """
    (without_exits,) = (point for point in points if point.threshold == 1)
    allowed = [point for point in points if 100 * (without_exits.top1 - point.top1) <= max_loss + 1e-6]
    # Of equal costs the higher threshold, which is safer on other videos.
    return min(allowed, key=lambda point: (point.multiply_adds, -point.threshold)).threshold


def _operate(outputs: Tensor, labels: Tensor, costs: ExitCosts, threshold: float) -> OperatingPoint:
    exits = exit_at(outputs, threshold)
    counts = torch.bincount(exits, minlength=len(outputs)).double()
    fractions = counts / len(labels)
    return OperatingPoint(
        threshold,
        float((take(outputs, exits).argmax(dim=1) == labels).double().mean()),
        _mean(fractions, costs.multiply_adds),
        None if costs.seconds is None else _mean(fractions, costs.seconds),
        tuple(fractions.tolist()),
    )


def _mean(fractions: Tensor, values: Sequence[float]) -> float:
    return float(fractions @ torch.tensor(values, dtype=torch.float64))


def _point(record: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(**{**record, "exited": tuple(record["exited"])})
