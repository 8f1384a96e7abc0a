"""Directions have the norms of the filters; slices are what the loss is at each of their points."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.analysis.loss_slices import (
    LossLines,
    filter_normalised_direction,
    loss_lines,
    loss_plane,
)
from lightning_modules.analysis.loss_surface import LossSurface


def surface() -> LossSurface:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    network = nn.Sequential(*layers).double()
    return LossSurface(network, [(torch.randn(5, 2, 4, 4).double(), torch.arange(5) % 3)])


def loss_moved_by(surface: LossSurface, *moves: tuple[float, Tensor]) -> float:
    network = copy.deepcopy(surface.model).eval()
    with torch.no_grad():
        for step, direction in moves:
            for parameter, part in zip(network.parameters(), surface.unflatten(direction).values(), strict=True):
                parameter += step * part
        ((inputs, labels),) = surface.batches
        return float(F.cross_entropy(network(inputs), labels))


def test_each_filter_moves_by_its_own_length_and_biases_and_norms_not_at_all() -> None:
    landscape = surface()
    parts = landscape.unflatten(filter_normalised_direction(landscape, seed=3))
    for name, weight in landscape.unflatten(landscape.point).items():
        if weight.ndim == 1:
            assert not parts[name].any()
        for part, filter_ in zip(parts[name], weight, strict=True):
            if weight.ndim > 1:
                torch.testing.assert_close(part.norm(), filter_.norm())
    assert {name for name, part in parts.items() if part.any()} == {"0.weight", "4.weight"}


def test_directions_follow_the_scale_of_filters() -> None:
    """The point of it: scale a filter, and its part of the direction is scaled alike."""
    landscape, scaled = surface(), surface()
    scaled.unflatten(scaled.point)["0.weight"][1] *= 7
    one, other = (filter_normalised_direction(s, seed=0) for s in (landscape, scaled))
    ratio = landscape.unflatten(other)["0.weight"] / landscape.unflatten(one)["0.weight"]
    torch.testing.assert_close(ratio[:, 0, 0, 0], torch.tensor([1.0, 7.0, 1.0]).double())


def test_seeds_choose_directions() -> None:
    one, same, other = (filter_normalised_direction(surface(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_lines_by_direct_evaluation() -> None:
    landscape = surface()
    lines = loss_lines(landscape, num_directions=2, radius=0.8, num_points=5, seed=4)
    assert lines.steps == pytest.approx([-0.8, -0.4, 0, 0.4, 0.8])
    for index, losses in enumerate(lines.losses):
        direction = filter_normalised_direction(landscape, seed=4 + index)
        expected = [loss_moved_by(landscape, (step, direction)) for step in lines.steps]
        assert losses == pytest.approx(expected, rel=1e-12)
        assert losses[2] == landscape.loss()
    assert lines.losses[0] != lines.losses[1]


def test_plane_by_direct_evaluation() -> None:
    landscape = surface()
    plane = loss_plane(landscape, radius=0.6, num_points=3, seed=4)
    x, y = (filter_normalised_direction(landscape, seed=seed) for seed in (4, 5))
    for b, row in zip(plane.steps, plane.losses, strict=True):
        assert row == pytest.approx([loss_moved_by(landscape, (a, x), (b, y)) for a in plane.steps], rel=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"odd number of points >= 3, came 0.5 and 4"):
        loss_lines(surface(), num_points=4)
    with pytest.raises(ValueError, match="`radius` > 0"):
        loss_plane(surface(), radius=0)
    with pytest.raises(ValueError, match="expected 2 losses a row"):
        LossLines([0.0, 1.0], [[1.0]])
