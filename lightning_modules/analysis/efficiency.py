"""What early exits save: by exit, how many videos leave there, how often rightly, and what they took until then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.networks.early_exit import EarlyExitNetworks


@dataclass
class Departures:
    """Where N videos left, and what each took.

    Args:
        places: (N,) int64, 0 to K - 1 in the order of exits.
        is_right: (N,) bool, whether the likeliest class was the label.
        decode_seconds: (N,) float64, for index, file, packets and pixels.
        cut_seconds: (N,) float64, for making views of them.
        compute_seconds: (N,) float64, for the networks.
    """

    places: Tensor
    is_right: Tensor
    decode_seconds: Tensor
    cut_seconds: Tensor
    compute_seconds: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Departures"]) -> "Departures":
        """The videos of several batches or ranks, at least one."""
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def of(self, chosen: Tensor) -> "Departures":
        """Some of the videos: (N,) bool."""
        return Departures(*(tensor[chosen] for tensor in vars(self).values()))


@dataclass(frozen=True)
class ExitEfficiency:
    """Means over the videos that left at one exit; NaN where there are none.

    Args:
        exit: its name; ``all`` for the videos of all exits.
        videos: how many left there.
        fraction: the same, of all.
        top1: how many of them were classified rightly.
        multiply_adds: of the networks, for all views of a video.
        decode_seconds: as of ``Departures``.
        cut_seconds: as of ``Departures``.
        compute_seconds: as of ``Departures``.
        wall_seconds: the three together.
    """

    exit: str
    videos: int
    fraction: float
    top1: float
    multiply_adds: float
    decode_seconds: float
    cut_seconds: float
    compute_seconds: float
    wall_seconds: float


def exit_costs(
    networks: EarlyExitNetworks,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    num_views: int = 1,
    convention: Convention = "multiply_adds",
) -> list[int]:
    """What it costs to come as far as each exit, in order, with all the exits before it.

    Args:
        networks: the networks; one pass is made through them.
        shapes: per stream (T, C, H, W) of a view.
        num_views: of a video.
        convention: what counts, see ``cost_of``.
    """
    adds = cost_of(networks, networks.blank_clips(shapes), convention=convention).exits
    return (num_views * torch.tensor([adds[name] for name in networks.exit_names]).cumsum(0)).tolist()


def efficiency_by_exit(departures: Departures, exit_names: Sequence[str], costs: Sequence[int]) -> list[ExitEfficiency]:
    """K rows in the order of exits, and one of all videos.

    Args:
        departures: of N videos.
        exit_names: K names.
        costs: K multiply-adds, see ``exit_costs``.
    """
    groups = {name: departures.of(departures.places == place) for place, name in enumerate(exit_names)}
    groups["all"] = departures
    return [_row(name, group, len(departures.places), costs) for name, group in groups.items()]


def _row(name: str, group: Departures, num_videos: int, costs: Sequence[int]) -> ExitEfficiency:
    paid = torch.tensor(costs)[group.places]
    seconds = [group.decode_seconds, group.cut_seconds, group.compute_seconds]
    means = [float(values.double().mean()) for values in (group.is_right, paid, *seconds, torch.stack(seconds).sum(0))]
    return ExitEfficiency(name, len(group.places), len(group.places) / max(num_videos, 1), *means)
