"""Slices through a network's loss along filter-normalised random directions.

Li et al., "Visualizing the Loss Landscape of Neural Nets" (NeurIPS 2018), section 4: a Gaussian direction d is rescaled
filter by filter to the norm of the weights, ``d_f <- d_f / |d_f| * |w_f|``, since a network with BatchNorm or ReLU is
the same function when its filters are scaled, and a step of fixed length would then look long or short at will.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.analysis.loss_surface import LossSurface


@dataclass(frozen=True)
class LossLines:
    """Loss along D random directions from the network.

    Args:
        steps: N multiples of the direction; 1 is as far as the weights are from 0.
        losses: D lists of N.

    Raises:
        ValueError: shapes that do not fit together.
    """

    steps: list[float]
    losses: list[list[float]]

    def __post_init__(self) -> None:
        if not self.losses or any(len(row) != len(self.steps) for row in self.losses):
            raise ValueError(f"expected {len(self.steps)} losses a row, came rows of {[*map(len, self.losses)]}")


@dataclass(frozen=True)
class LossPlane(LossLines):
    """Loss over the plane of two random directions x and y.

    Args:
        steps: N multiples of either direction.
        losses: N rows, one for each step along y, of N, one for each step along x.
    """


def filter_normalised_direction(surface: LossSurface, *, seed: int) -> Tensor:
    """A Gaussian direction (P,), rescaled so that each filter's part is as long as the filter.

    A filter is what makes one output: a slice of a weight along its first dimension, for linear layers too. Parameters
    of less than two dimensions, biases and the weights of normalisation layers, do not move, as in the paper's plots.
    Networks of one architecture get the same draw for one seed, whatever device they are on.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(surface.num_parameters, generator=generator).to(surface.point)
    weights, parts = surface.unflatten(surface.point), surface.unflatten(draw)
    return torch.cat([_like_filters(parts[name], weight).flatten() for name, weight in weights.items()])


def loss_lines(
    surface: LossSurface, *, num_directions: int = 2, radius: float = 0.5, num_points: int = 21, seed: int = 0
) -> LossLines:
    """Slice the loss along random directions, each from ``-radius`` to ``radius``.

    Args:
        surface: the loss.
        num_directions: D.
        radius: of the longest steps, in lengths of the weights.
        num_points: N, odd, so that the network itself is the one in the middle.
        seed: direction i is that of ``seed + i``.
    """
    steps = _steps(radius, num_points)
    directions = [filter_normalised_direction(surface, seed=seed + index) for index in range(num_directions)]
    losses = [[surface.loss(surface.point + step * direction) for step in steps] for direction in directions]
    return LossLines(steps, losses)


def loss_plane(surface: LossSurface, *, radius: float = 0.5, num_points: int = 9, seed: int = 0) -> LossPlane:
    """Slice the loss along the plane of the first two directions of ``loss_lines``.

    The directions are drawn independently, as in the paper: among many parameters they are all but orthogonal.

    Args:
        surface: the loss.
        radius: of the longest steps along either direction, in lengths of the weights.
        num_points: N along either direction, odd.
        seed: of the first direction.
    """
    steps = _steps(radius, num_points)
    x, y = (filter_normalised_direction(surface, seed=seed + index) for index in range(2))
    return LossPlane(steps, [[surface.loss(surface.point + a * x + b * y) for a in steps] for b in steps])


def _like_filters(part: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(part)
    others = tuple(range(1, weight.ndim))
    return part * (_norms(weight, others) / _norms(part, others))


def _norms(filters: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(filters, dim=dims, keepdim=True)


def _steps(radius: float, num_points: int) -> list[float]:
    if radius <= 0 or num_points < 3 or num_points % 2 == 0:
        raise ValueError(
            f"expected `radius` > 0 and an odd number of points >= 3, came {radius} and {num_points}; "
            "see `radius`, `line_points` and `plane_points`"
        )
    half = num_points // 2
    return [radius * index / half for index in range(-half, half + 1)]
