"""Learned scales against closed forms, scipy and plain gradient descent, in float64."""

import math
import time

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lightning_modules.ensemble import average_views, combine, fit_scales, objective


def problem(num_networks: int = 4, samples: int = 300, classes: int = 6, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits of networks that know the label and share part of their mistakes, as exits of one backbone do."""
    generator = torch.Generator().manual_seed(num_networks)
    labels = torch.randint(classes, (samples,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, classes).double()
    shared = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    own = torch.randn(num_networks, samples, classes, generator=generator, dtype=torch.float64)
    return truth + noise * shared + 0.5 * noise * own, labels


def scipy_optimum(logits: Tensor, labels: Tensor, l1: float, non_negative: bool) -> float:
    """The minimum, with scales split into positive and negative parts so that the penalty is smooth."""
    num = len(logits)

    def value_and_slope(parts: np.ndarray) -> tuple[float, np.ndarray]:
        split = torch.tensor(parts, requires_grad=True)
        value = torch.nn.functional.cross_entropy(combine(logits, split[:num] - split[num:]), labels)
        value = value + l1 * split.sum()
        value.backward()
        return value.item(), split.grad.numpy()

    bounds = [(0, None)] * num + [(0, 0 if non_negative else None)] * num
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(value_and_slope, np.ones(2 * num), jac=True, bounds=bounds, options=options).fun


@pytest.mark.parametrize("num_networks", [1, 3, 12])
@pytest.mark.parametrize("l1", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("non_negative", [False, True])
def test_scales_reach_the_optimum(num_networks: int, l1: float, non_negative: bool) -> None:
    logits, labels = problem(num_networks)
    scales = fit_scales(logits, labels, l1=l1, non_negative=non_negative)
    assert scales.dtype == torch.float64
    value = objective(logits, labels, scales, l1=l1).item()
    assert value <= scipy_optimum(logits, labels, l1, non_negative) + 1e-9
    assert not non_negative or (scales >= 0).all()


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_optimality_conditions_hold_to_the_last_digits(l1: float) -> None:
    logits, labels = problem(6)
    scales = fit_scales(logits, labels, l1=l1).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(combine(logits, scales), labels), scales)
    used = scales != 0
    torch.testing.assert_close(gradient[used], -l1 * scales[used].sign(), rtol=0, atol=1e-8)
    assert (gradient[~used].abs() <= l1 + 1e-8).all()


def test_one_network_with_two_classes_has_a_closed_form() -> None:
    # Logits (1, 0), right in 3 of 4 samples: softmax(s, 0) must say 3/4, so s = log 3.
    logits = torch.tensor([1.0, 0.0]).repeat(4, 1)[None]
    scales = fit_scales(logits, torch.tensor([0, 0, 0, 1]))
    assert scales.item() == pytest.approx(math.log(3), abs=1e-10)


def test_better_than_the_papers_sgd() -> None:
    logits, labels = problem(12)
    scales = torch.ones(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([scales], lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        objective(logits, labels, scales, l1=0.1).backward()
        optimizer.step()
    reached = objective(logits, labels, scales, l1=0.1).item()
    assert objective(logits, labels, fit_scales(logits, labels, l1=0.1), l1=0.1).item() < reached


def test_networks_that_say_nothing_new_do_no_harm() -> None:
    logits, labels = problem(2)
    alone = objective(logits, labels, fit_scales(logits, labels)).item()
    doubled = torch.cat([logits, logits, torch.zeros_like(logits[:1])])
    for l1, non_negative in [(0.0, False), (0.0, True), (1e-12, False)]:
        scales = fit_scales(doubled, labels, l1=l1, non_negative=non_negative)
        assert scales.isfinite().all()
        assert objective(doubled, labels, scales).item() == pytest.approx(alone, abs=1e-9)


def test_separable_samples_give_finite_scales() -> None:
    labels = torch.arange(30) % 3
    logits = torch.nn.functional.one_hot(labels, 3).float()[None].repeat(2, 1, 1)
    scales = fit_scales(logits, labels)
    assert scales.isfinite().all()
    assert objective(logits.double(), labels, scales) < 1e-6


def test_a_large_problem_takes_seconds() -> None:
    logits, labels = problem(12, samples=5000, classes=50)
    start = time.perf_counter()
    fit_scales(logits, labels, l1=0.01)
    assert time.perf_counter() - start < 20


def test_combine_is_the_weighted_sum() -> None:
    logits, scales = torch.randn(3, 5, 4), torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(combine(logits, scales), 2 * logits[0] - logits[2])


def test_views_of_a_video_are_adjacent() -> None:
    logits = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    torch.testing.assert_close(average_views(logits, 2), torch.tensor([[2.0], [20.0]]))


@pytest.mark.parametrize(
    ("logits", "labels", "l1", "message"),
    [
        ((2, 5), (5,), 0.0, r"expected logits \(K, N, C\)"),
        ((2, 5, 3), (4,), 0.0, r"expected .* came \(2, 5, 3\) and \(4,\)"),
        ((2, 0, 3), (0,), 0.0, "at least one sample"),
        ((2, 5, 3), (5,), -1.0, "`l1` >= 0, came -1.0"),
    ],
)
def test_what_does_not_fit_is_refused(logits: tuple, labels: tuple, l1: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_scales(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64), l1=l1)
