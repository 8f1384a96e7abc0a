"""Measurements as a whole: their way through JSON, and which of them may be compared and drawn together."""

import io
import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.analysis.flatness import FlatnessMeasurement, MeasuredFlatness, check_comparable
from lightning_modules.analysis.flatness_plot import draw_comparison, draw_flatness
from lightning_modules.analysis.hessian import hessian_trace, top_eigenvalue
from lightning_modules.analysis.loss_slices import loss_lines, loss_plane
from lightning_modules.analysis.loss_surface import LossSurface

CHEAP = FlatnessMeasurement(num_probes=3, num_directions=2, line_points=5, plane_points=3, radius=0.3, seed=7)


def surface(seed: int = 0, hidden: int = 5) -> LossSurface:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    return LossSurface(network, [(torch.randn(6, 4), torch.arange(6) % 3)])


def measured(seed: int = 0, hidden: int = 5) -> MeasuredFlatness:
    return CHEAP(surface(seed, hidden))


def test_a_measurement_is_what_its_parts_are_alone() -> None:
    messages: list[str] = []
    found = CHEAP(surface(), messages.append)
    assert found.loss == surface().loss()
    assert found.trace == hessian_trace(surface(), num_probes=3, seed=7)
    assert found.top_eigenvalue == top_eigenvalue(surface(), seed=7)
    assert found.lines == loss_lines(surface(), radius=0.3, num_points=5, seed=7)
    assert found.plane == loss_plane(surface(), radius=0.3, num_points=3, seed=7)
    assert found.shapes == {"0.weight": (5, 4), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
    assert [message.split()[0] for message in messages] == ["Hessian", "top", "loss"]


def test_through_json_and_back() -> None:
    found = measured()
    record = json.loads(json.dumps(found.to_record()))
    assert MeasuredFlatness.from_record(record) == found
    assert record["trace"]["normalised"] == pytest.approx(found.trace.value / 43)
    assert record["trace"]["normalised_standard_error"] == pytest.approx(found.trace.standard_error / 43)


def test_only_equal_architectures_are_compared() -> None:
    check_comparable({"a": measured(0), "b": measured(1)})
    message = r"a and c are different architectures: 0.weight is \(5, 4\) in the first, \(6, 4\) in the second.*Compare"
    with pytest.raises(ValueError, match=message):
        check_comparable({"a": measured(), "b": measured(1), "c": measured(hidden=6)})
    less = replace(measured(), shapes={"0.weight": (5, 4)})
    with pytest.raises(ValueError, match=r"0.bias is missing in the first, \(5,\) in the second"):
        draw_comparison({"a": less, "b": measured()})


def test_only_equal_numbers_of_samples_are_compared() -> None:
    other = measured(1)
    other = replace(other, trace=replace(other.trace, num_samples=9))
    with pytest.raises(ValueError, match=r"a was measured on 6 samples, b on 9; set `num_samples`"):
        check_comparable({"a": measured(), "b": other})


def test_comparison_draws_all_networks_on_equal_axes() -> None:
    networks = {"before": measured(0), "after": measured(1)}
    (row,) = draw_comparison(networks).subfigs
    lines, before, after, _ = row.axes
    thick = [line for line in lines.lines if line.get_linewidth() == 2]
    for line, flatness in zip(thick, networks.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.mean(flatness.lines.losses, axis=0))
    assert [line.get_label().split(":")[0] for line in thick] == ["before", "after"]
    assert [axis.get_title() for axis in (before, after)] == ["before", "after"]
    levels = [axis.collections[0].levels for axis in (before, after)]
    np.testing.assert_array_equal(*levels)
    assert before.get_xlim() == after.get_xlim()


def test_a_run_is_drawn_by_architecture() -> None:
    figure = draw_flatness({"mv": measured(0), "iframe": measured(hidden=6), "residual": measured(1)})
    titles = [[axis.get_title() for axis in row.axes if axis.get_title()] for row in figure.subfigs]
    assert titles == [["mv", "residual"], ["iframe"]]
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=40)
    assert matplotlib.image.imread(io.BytesIO(image.getvalue())).std() > 0.1


def test_losses_that_overflow_are_drawn() -> None:
    flatness = measured()
    plane = replace(flatness.plane, losses=[[float("inf"), 1.0, 2.0], [1.0, 0.5, float("nan")], [1e30, 2.0, 3.0]])
    draw_comparison({"a": replace(flatness, plane=plane)}).savefig(io.BytesIO(), format="png", dpi=40)
