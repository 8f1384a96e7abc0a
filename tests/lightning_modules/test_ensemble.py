"""Learned scales against closed forms, scipy and the paper's gradient descent, in float64; the rule of exits."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lightning_modules.ensemble import (
    Connection,
    average_views,
    combine,
    connect,
    exit_at,
    fit_exit_scales,
    fit_scales,
    objective,
    take,
)


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


def papers_sgd(logits: Tensor, labels: Tensor, l1: Tensor, lr: float) -> Tensor:
    """The objective of every exit (K,) after 500 steps of SGD from ones; no exit's scales concern another's."""
    num = len(logits)
    scales = torch.ones(num, num, dtype=torch.float64).tril().requires_grad_()

    def objectives() -> Tensor:
        outputs = combine(logits, scales.tril())
        losses = torch.nn.functional.cross_entropy(
            outputs.movedim(0, 2), labels[:, None].expand(-1, num), reduction="none"
        )
        return losses.mean(dim=0) + l1 * scales.tril().abs().sum(dim=1)

    optimizer = torch.optim.SGD([scales], lr=lr)
    for _ in range(500):
        optimizer.zero_grad()
        objectives().sum().backward()
        optimizer.step()
    return objectives().detach()


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_no_exit_is_worse_than_by_the_papers_sgd(lr: float) -> None:
    """Exits 2 to 5 without L1, from 6 on with 0.1: the paper's."""
    logits, labels = problem(12)
    l1 = torch.tensor([0.0] * 5 + [0.1] * 7, dtype=torch.float64)
    scales, by_sgd = fit_exit_scales(logits, labels), papers_sgd(logits, labels, l1, lr)
    for k in range(2, 13):
        reached = objective(logits[:k], labels, scales[k - 1, :k], l1=l1[k - 1].item())
        assert reached <= by_sgd[k - 1] + 1e-12


def test_exits_are_scaled_each_for_itself_and_the_first_not_at_all() -> None:
    logits, labels = problem(4)
    scales = fit_exit_scales(logits, labels, l1=0.05, l1_from=3, non_negative=True)
    assert scales.dtype == torch.float64
    assert scales[0].tolist() == [1, 0, 0, 0]
    assert torch.equal(scales, scales.tril())
    for k, l1 in ((2, 0.0), (3, 0.05), (4, 0.05)):
        assert torch.equal(scales[k - 1, :k], fit_scales(logits[:k], labels, l1=l1, non_negative=True))


def test_an_exit_after_one_that_says_nothing_has_a_closed_form() -> None:
    # As of one network with two classes: softmax(s, 0) = 3/4, and zeros get no scale by L1 ...
    logits = torch.stack([torch.zeros(4, 2), torch.tensor([1.0, 0.0]).repeat(4, 1)])
    labels = torch.tensor([0, 0, 0, 1])
    scales = fit_exit_scales(logits, labels, l1=0.1, l1_from=3)
    assert scales[1, 1].item() == pytest.approx(math.log(3), abs=1e-10)
    # ... whose 0.05 is the slope 3/4 - softmax(s, 0) at the optimum.
    scales = fit_exit_scales(logits, labels, l1=0.05, l1_from=2)
    assert scales[1].tolist() == pytest.approx([0, math.log(0.7 / 0.3)], abs=1e-8)


CONNECTED: dict[Connection, list[list[float]]] = {
    "scaled": [[1, 0, 0], [0.5, 2, 0], [0, -1, 3]],
    "unscaled": [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
    "unconnected": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "divided": [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]],
}


@pytest.mark.parametrize("connection", CONNECTED)
def test_outputs_of_all_exits_are_sums_over_the_exits_so_far(connection: Connection) -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learned = torch.tensor(CONNECTED["scaled"], dtype=torch.float64)
    outputs = combine(logits, connect(connection, learned))
    for k, row in enumerate(CONNECTED[connection]):
        expected = sum(scale * logits[i] for i, scale in enumerate(row))
        torch.testing.assert_close(outputs[k], expected, rtol=0, atol=1e-12)


def test_an_unknown_connection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model.init_args.connection`: expected one of .*, came 'loose'"):
        connect("loose", torch.eye(2))  # type: ignore[arg-type]


def outputs_with(*probabilities: list[float]) -> Tensor:
    """Two classes, one list of the first one's probability by video for each exit: (K, N, 2) float64."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=2).log()


def test_a_video_leaves_at_the_first_exit_that_is_confident() -> None:
    # Videos: sure at once, sure of the other class, sure at exit 2 and unsure later, never sure, sure at the last.
    outputs = outputs_with([0.9, 0.1, 0.6, 0.5, 0.5], [0.6, 0.5, 0.9, 0.6, 0.6], [0.5, 0.5, 0.5, 0.7, 0.9])
    exits = exit_at(outputs, 0.8)
    assert exits.dtype == torch.int64
    assert exits.tolist() == [0, 0, 1, 2, 2]
    taken = take(outputs, exits).softmax(dim=1)[:, 0]
    torch.testing.assert_close(taken, torch.tensor([0.9, 0.1, 0.9, 0.7, 0.9], dtype=torch.float64))


def test_the_threshold_itself_is_not_enough() -> None:
    outputs = torch.tensor([[[0.0, 0.0]], [[40.0, -40.0]], [[1000.0, 0.0]]], dtype=torch.float64)
    assert exit_at(outputs, 0.5).tolist() == [1]
    assert exit_at(outputs, 0.499).tolist() == [0]
    # Saturated softmax: exactly 1, from exit 2 on.
    assert exit_at(outputs, 1.0).tolist() == [2]
    assert exit_at(outputs, 0.0).tolist() == [0]


def test_at_threshold_1_the_output_is_the_full_ensembles() -> None:
    logits, labels = problem(5)
    scales = fit_exit_scales(logits, labels)
    outputs = combine(1000 * logits, scales)
    full = (scales[-1][:, None, None] * 1000 * logits).sum(dim=0)
    torch.testing.assert_close(take(outputs, exit_at(outputs, 1.0)), full, rtol=0, atol=1e-9)


def test_no_videos_leave_nowhere() -> None:
    assert exit_at(torch.zeros(3, 0, 4), 0.5).shape == (0,)


@pytest.mark.parametrize("threshold", [-0.1, 1.0001, math.nan])
def test_thresholds_that_are_no_probabilities_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"`model.init_args.threshold`: expected from 0 .* came {threshold}"):
        exit_at(torch.zeros(2, 1, 3), threshold)


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


def test_a_large_problem_is_solved_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subgradients hold 0 after at most 20 of Newton's steps, where gradient descent takes thousands."""
    monkeypatch.setattr("lightning_modules.ensemble.MAX_STEPS", 20)
    logits, labels = problem(12, samples=5000, classes=50)
    scales = fit_scales(logits, labels, l1=0.01).requires_grad_()
    objective(logits.double(), labels, scales).backward()
    assert (scales.grad[scales != 0] + 0.01 * scales[scales != 0].sign()).abs().max() < 1e-7
    assert (scales.grad[scales == 0].abs() <= 0.01 + 1e-7).all()


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
