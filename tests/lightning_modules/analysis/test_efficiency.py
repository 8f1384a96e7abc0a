"""Rows against sums by hand; costs against those of each network alone."""

from math import isnan

import pytest
import torch

from lightning_modules.analysis.cost import cost_of
from lightning_modules.analysis.efficiency import Departures, efficiency_by_exit, exit_costs
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10


def seconds(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rows_are_means_over_who_left_there() -> None:
    first = Departures(torch.tensor([0, 2]), torch.tensor([True, False]), seconds(1, 4), seconds(0, 1), seconds(2, 8))
    second = Departures(torch.tensor([0]), torch.tensor([False]), seconds(3), seconds(1), seconds(2))
    rows = efficiency_by_exit(Departures.joined([first, second]), ["a", "b", "c"], [10, 20, 100])
    assert [(row.exit, row.videos) for row in rows] == [("a", 2), ("b", 0), ("c", 1), ("all", 3)]
    a, b, c, every = rows
    assert (a.fraction, a.top1, a.multiply_adds) == (pytest.approx(2 / 3), 0.5, 10)
    assert (a.decode_seconds, a.cut_seconds, a.compute_seconds, a.wall_seconds) == (2, 0.5, 2, 4.5)
    assert b.fraction == 0
    assert isnan(b.top1)
    assert isnan(b.wall_seconds)
    assert (c.top1, c.multiply_adds, c.wall_seconds) == (0, 100, 13)
    assert (every.fraction, every.multiply_adds, every.top1) == (1, 40, pytest.approx(1 / 3))
    assert every.wall_seconds == pytest.approx((3 + 13 + 6) / 3)


@pytest.mark.parametrize("order", [["mv", "iframe"], ["iframe", "mv"], None])
def test_costs_add_up_along_the_order(order: list[str] | None) -> None:
    shapes = {"mv": (3, 2, 32, 32), "iframe": (3, 3, 48, 48)}
    trio = {s: EarlyExitNetwork(resnet10(5, shape[1], width=8)) for s, shape in shapes.items()}
    names = [f"{s}/{name}" for name in ("layer1", "layer2", "layer3", "final") for s in trio]
    networks = EarlyExitNetworks(trio, order=order or names)
    alone = {stream: cost_of(trio[stream], torch.zeros(1, *shape)) for stream, shape in shapes.items()}
    costs = exit_costs(networks, shapes, num_views=6)
    for place, cost in enumerate(costs):
        reached = {name.split("/")[0]: name.split("/")[1] for name in networks.exit_names[: place + 1]}
        assert cost == 6 * sum(alone[stream].to_exit(name) for stream, name in reached.items())
