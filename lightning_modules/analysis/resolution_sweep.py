"""What lower resolutions cost in accuracy, and save: metric, multiply-adds and throughput over sizes of the input.

ResKD ("Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS 2022), Fig. 1, Fig. 3 and Table 4.
A low resolution is taken as it is (``native``: cheap), or up-sampled to the full size again (``upsampled``: as dear as
that, so that nothing but the lost detail makes a difference).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.analysis.throughput import Throughput
from lightning_modules.networks.resize import resize_maps, resize_short_side

Treatment = Literal["native", "upsampled"]
Metric = Literal["top1", "mAP"]
TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)
SIZES = (56, 72, 96, 112, 144, 224)
COSTS: tuple[Convention, ...] = ("multiply_adds", "paper")


@dataclass(frozen=True)
class ResolutionPoint:
    """One network at one resolution.

    Args:
        series: what it belongs to, e.g. ``native`` or a network's name; a line in pictures.
        size: short side of the frames, pixels, before they are up-sampled.
        input_size: short side of what the network computes on.
        score: the metric, 0 to 1.
        multiply_adds: of a video, all frames and views.
        paper: the same as ResKD's tables count, see ``cost``.
        throughput: None where it was not measured.
        run: the run's name; "" where there is one run only.
    """

    series: str
    size: int
    input_size: int
    score: float
    multiply_adds: float
    paper: float
    throughput: Throughput | None = None
    run: str = ""


@dataclass(frozen=True)
class MeasuredResolutions:
    """Points of one data set.

    Args:
        metric: what ``score`` is.
        data_set: name of the annotations' class, e.g. ``ActivityNet``.
        num_videos: of the test split.
        points: by series and rising size.
    """

    metric: Metric
    data_set: str
    num_videos: int
    points: Sequence[ResolutionPoint]

    @property
    def by_series(self) -> dict[str, list[ResolutionPoint]]:
        """Points by series, each by rising size and input size."""
        names = dict.fromkeys(point.series for point in self.points)
        ordered = sorted(self.points, key=lambda point: (point.size, point.input_size))
        return {name: [point for point in ordered if point.series == name] for name in names}

    @property
    def is_timed(self) -> bool:
        """Whether the throughput of every point is known."""
        return all(point.throughput is not None for point in self.points)

    def to_record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "MeasuredResolutions":
        """What ``to_record`` was made of, also after a way through JSON."""
        return cls(**{**record, "points": [_point(point) for point in record["points"]]})


@dataclass(frozen=True)
class Gain:
    """How much cheaper and faster a point is than the dearest of its series.

    Args:
        cost: how many times fewer operations.
        throughput: how many times more videos a second; None where it was not measured.
    """

    cost: float
    throughput: float | None


def gains(points: Sequence[ResolutionPoint], convention: Convention = "paper") -> list[Gain]:
    """Of each point over the one of the highest cost.

    Args:
        points: one or more of one series.
        convention: what counts, of ``COSTS``.
    """
    costs = [cost_in(point, convention) for point in points]
    dearest = points[costs.index(max(costs))]
    return [
        Gain(max(costs) / cost, _faster(point.throughput, dearest.throughput))
        for point, cost in zip(points, costs, strict=True)
    ]


def cost_in(point: ResolutionPoint, convention: Convention) -> float:
    """Of a video, by one of ``COSTS``.

    Raises:
        ValueError: another convention.
    """
    if convention not in COSTS:
        raise ValueError(f"expected a `convention` of {list(COSTS)}, came {convention!r}")
    return getattr(point, convention)


def treat(clips: Tensor, size: int, treatment: Treatment) -> Tensor:
    """Take detail away: frames of ``size`` (``native``), or those up-sampled to what they were (``upsampled``).

    Args:
        clips: (N, T, C, H, W) float.
        size: of the short side, pixels.
        treatment: which.
    """
    small = resize_short_side(clips, size)
    return small if treatment == "native" else resize_maps(small, clips.shape[-2:])


def costs_of(network: nn.Module, clip: Sequence[int], *, num_views: int = 1) -> dict[Convention, int]:
    """What a video costs, by each of ``COSTS``; counted on the meta device.

    Args:
        network: it is copied.
        clip: (T, C, H, W) of a view.
        num_views: of a video.
    """
    shadow = deepcopy(network).to("meta")
    example = next(shadow.parameters()).new_empty(1, *clip)
    return {convention: num_views * cost_of(shadow, example, convention=convention).total for convention in COSTS}


def _faster(throughput: Throughput | None, reference: Throughput | None) -> float | None:
    if throughput is None or reference is None:
        return None
    return throughput.videos_per_second / reference.videos_per_second


def _point(record: Mapping[str, Any]) -> ResolutionPoint:
    throughput = record["throughput"]
    return ResolutionPoint(
        **{**record, "throughput": None if throughput is None else Throughput.from_record(throughput)}
    )
