"""Trace and top eigenvalue against known Hessians, and the error bar against the spread it promises."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from lightning_modules.analysis.hessian import RademacherProbes, hessian_trace, top_eigenvalue
from lightning_modules.analysis.loss_surface import LossSurface, cross_entropy


class Vector(nn.Module):
    """Gives back its parameters, whatever it gets."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.linspace(1, 2, size).double())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.vector.expand(len(inputs), -1)


def quadratic(matrix: Tensor) -> LossSurface:
    """A loss whose Hessian is ``matrix``, in two batches."""
    batches = [(torch.zeros(n, 1), torch.zeros(n)) for n in (3, 1)]

    def loss(points: Tensor, _: Tensor) -> Tensor:
        return (points @ matrix * points).sum(1).mean() / 2

    return LossSurface(Vector(len(matrix)), batches, loss=loss)


def with_eigenvalues(*values: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator).double())
    return basis @ torch.diag(torch.tensor(values).double()) @ basis.T


def convolutional() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)]
    network = nn.Sequential(*layers).double()
    network(torch.randn(20, 2, 6, 6).double() + 1)  # running statistics
    return network, (torch.randn(9, 2, 6, 6).double(), torch.arange(9) % 3)


def perceptron() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return network, (torch.randn(9, 4).double(), torch.arange(9) % 3)


def full_hessian(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    network.eval()
    names, tensors = zip(*network.named_parameters(), strict=True)
    sizes = [tensor.numel() for tensor in tensors]

    def loss(point: Tensor) -> Tensor:
        parts = [part.view_as(t) for part, t in zip(point.split(sizes), tensors, strict=True)]
        return cross_entropy(functional_call(network, dict(zip(names, parts, strict=True)), (inputs,)), labels)

    return hessian(loss)(torch.cat([tensor.detach().flatten() for tensor in tensors]))


@pytest.mark.parametrize("build", [convolutional, perceptron])
def test_networks_against_their_full_hessian(build: Callable) -> None:
    network, (inputs, labels) = build()
    expected = full_hessian(network, inputs, labels)
    network.train()
    surface = LossSurface(network, [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])])
    # The mean of v.T H v over all unit vectors times P is the trace, without any chance.
    unit_vectors = torch.eye(surface.num_parameters).double()
    assert sum(surface.curvatures(list(unit_vectors))) == pytest.approx(float(expected.trace()))
    trace = hessian_trace(surface, num_probes=400)
    assert abs(trace.value - float(expected.trace())) < 3 * trace.standard_error
    off_diagonal = expected.square().sum() - expected.diagonal().square().sum()
    assert trace.standard_error == pytest.approx(math.sqrt(2 * float(off_diagonal) / 400), rel=0.15)
    top = top_eigenvalue(surface, tolerance=1e-6, max_products=2000)
    assert top.converged
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(expected)[-1]), rel=1e-9)


def test_trace_of_a_diagonal_hessian_is_exact() -> None:
    trace = hessian_trace(quadratic(torch.diag(torch.tensor([3.0, -1.0, 0.5]).double())), num_probes=2)
    assert trace.value == pytest.approx(2.5, rel=1e-12)
    assert trace.standard_error == pytest.approx(0, abs=1e-12)
    assert (trace.num_probes, trace.num_samples, trace.num_parameters) == (2, 4, 3)
    assert trace.normalised == pytest.approx(2.5 / 3)


def test_the_error_bar_covers_the_truth_as_often_as_it_should() -> None:
    """95 % intervals by Student's t with 15 degrees of freedom, over 300 seeds: 285 +- 3.8 expected."""
    surface = quadratic(with_eigenvalues(*torch.linspace(-1, 4, 12).tolist()))
    truth, quantile = 18.0, 2.131
    traces = [hessian_trace(surface, num_probes=16, seed=seed) for seed in range(300)]
    covered = sum(abs(trace.value - truth) <= quantile * trace.standard_error for trace in traces)
    assert 273 <= covered <= 297
    assert sum(trace.value for trace in traces) / 300 == pytest.approx(truth, rel=0.02)


def test_probes_are_signs_and_the_same_each_time() -> None:
    probes = RademacherProbes(torch.zeros(5, dtype=torch.float64), 3, seed=1)
    first, second = torch.stack([*probes]), torch.stack([*probes])
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert set(first.flatten().tolist()) == {-1.0, 1.0}
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ("eigenvalues", "dominant"),
    [
        ((5.0, 2.0, 1.0, -1.0), 5.0),
        ((2.0, 1.0, -0.5, -6.0), -6.0),  # a saddle: negative curvature dominates
        ((-1.0, -3.0, -4.0), -4.0),  # a maximum
    ],
)
def test_top_eigenvalue_is_the_largest_not_the_largest_in_magnitude(
    eigenvalues: tuple[float, ...], dominant: float
) -> None:
    top = top_eigenvalue(quadratic(with_eigenvalues(*eigenvalues)), tolerance=1e-7, max_products=1000)
    assert top.converged
    assert top.value == pytest.approx(max(eigenvalues), rel=1e-9)
    assert top.dominant == pytest.approx(dominant, rel=1e-9)
    assert top.residual <= 1e-7 * abs(dominant)


def test_eigenvalues_of_opposite_signs_and_equal_magnitude() -> None:
    """Power iteration itself never settles there."""
    top = top_eigenvalue(quadratic(with_eigenvalues(3.0, 1.0, -3.0)), tolerance=1e-7, max_products=300)
    assert top.converged
    assert top.value == pytest.approx(3, rel=1e-9)


def test_an_eigenvalue_lies_within_the_residual_where_the_iteration_was_cut_short() -> None:
    eigenvalues = (5.0, 4.9, 1.0)
    top = top_eigenvalue(quadratic(with_eigenvalues(*eigenvalues)), tolerance=1e-9, max_products=5)
    assert not top.converged
    assert top.num_products == 10
    assert top.value <= 5
    assert min(abs(top.value - eigenvalue) for eigenvalue in eigenvalues) <= top.residual


def test_no_curvature_at_all() -> None:
    top = top_eigenvalue(quadratic(torch.zeros(3, 3).double()))
    assert (top.value, top.residual, top.converged) == (0, 0, True)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="num_probes"):
        hessian_trace(quadratic(torch.eye(2).double()), num_probes=1)
    with pytest.raises(ValueError, match="max_products"):
        top_eigenvalue(quadratic(torch.eye(2).double()), max_products=0)
