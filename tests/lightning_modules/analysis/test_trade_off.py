"""Sweeps against loops over videos one by one, and which threshold is chosen."""

import json
from itertools import pairwise
from math import exp, log

import pytest
import torch

from lightning_modules.analysis.trade_off import (
    THRESHOLDS,
    ExitCosts,
    MeasuredTradeOff,
    NetworkPoint,
    OperatingPoint,
    choose_threshold,
    sweep,
)


def logits_of(probability: float, likeliest: int, num_classes: int = 4) -> list[float]:
    """Logits whose softmax gives ``likeliest`` that probability, and the others equal shares of the rest."""
    rest = log((1 - probability) / (num_classes - 1))
    return [log(probability) if index == likeliest else rest for index in range(num_classes)]


def test_hand_made_videos() -> None:
    """Three exits alone, four videos: (probability, answer) at each exit."""
    videos = [
        [(0.95, 0), (0.6, 1), (0.5, 1)],  # sure at once, and right only there
        [(0.4, 2), (0.85, 1), (0.99, 1)],
        [(0.3, 0), (0.4, 0), (0.7, 2)],
        [(0.75, 3), (0.8, 0), (0.9, 0)],  # wrong at first
    ]
    logits = torch.tensor([[logits_of(*exit) for exit in video] for video in videos]).transpose(0, 1)
    labels, costs = torch.tensor([0, 1, 2, 0]), ExitCosts([10, 30, 70], [1.0, 1.5, 4.0])
    points = sweep(logits, labels, torch.eye(3), costs, thresholds=[0, 0.7, 0.8, 0.9, 1])
    expected = [
        (0, 1 / 4, 10, 1.0, (1.0, 0, 0)),
        (0.7, 3 / 4, (10 + 30 + 70 + 10) / 4, (1 + 1.5 + 4 + 1) / 4, (0.5, 0.25, 0.25)),
        (0.8, 1, (10 + 30 + 70 + 70) / 4, (1 + 1.5 + 4 + 4) / 4, (0.25, 0.25, 0.5)),
        (0.9, 1, (10 + 70 + 70 + 70) / 4, (1 + 4 + 4 + 4) / 4, (0.25, 0, 0.75)),
        (1, 3 / 4, 70, 4.0, (0, 0, 1.0)),
    ]
    for point, (threshold, top1, cost, seconds, exited) in zip(points, expected, strict=True):
        assert (point.threshold, point.top1, point.multiply_adds, point.seconds) == (threshold, top1, cost, seconds)
        assert point.exited == exited


def test_weighted_exits_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 40, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(5, 5, generator=generator, dtype=torch.float64).tril()
    labels = torch.randint(0, 3, (40,), generator=generator)
    costs = ExitCosts([3, 4, 9, 11, 20])
    scales, own = weights.tolist(), logits.tolist()
    for point in sweep(logits, labels, weights, costs):
        left, right = [0] * 5, 0
        for video in range(40):
            for place in range(5):
                sums = [sum(scales[place][i] * own[i][video][c] for i in range(5)) for c in range(3)]
                if max(exp(s) for s in sums) / sum(exp(s) for s in sums) > point.threshold or place == 4:
                    left[place] += 1
                    right += sums.index(max(sums)) == int(labels[video])
                    break
        assert point.top1 == pytest.approx(right / 40)
        assert point.exited == pytest.approx([count / 40 for count in left])
        assert point.multiply_adds == pytest.approx(
            sum(count * cost for count, cost in zip(left, costs.multiply_adds, strict=True)) / 40
        )
        assert point.seconds is None


def test_thresholds_span_all_and_crowd_near_one() -> None:
    assert THRESHOLDS[0] == 0
    assert THRESHOLDS[-2:] == (0.999999, 1)
    assert all(low < high for low, high in pairwise(THRESHOLDS))
    assert {0.5, 0.9, 0.95, 0.99, 0.999} <= set(THRESHOLDS)


def test_no_videos() -> None:
    with pytest.raises(ValueError, match="at least one video"):
        sweep(torch.zeros(2, 0, 3), torch.zeros(0, dtype=torch.int64), torch.eye(2), ExitCosts([1, 2]))


def point(threshold: float, top1: float, cost: float) -> OperatingPoint:
    return OperatingPoint(threshold, top1, cost, None, (1.0,))


@pytest.mark.parametrize(
    ("max_loss", "expected"),
    [
        (0.0, 0.9),  # loses nothing
        (0.5, 0.8),  # exactly half a point
        (3.0, 0.3),  # cheaper than 0.5, which loses more
        (100.0, 0.2),  # as cheap as 0: the higher one
    ],
)
def test_the_cheapest_that_loses_little_is_chosen(max_loss: float, expected: float) -> None:
    table = [(0, 0.2, 1), (0.2, 0.2, 1), (0.3, 0.77, 2), (0.5, 0.75, 3), (0.8, 0.795, 4), (0.9, 0.8, 5), (1, 0.8, 6)]
    assert choose_threshold([point(*row) for row in table], max_loss) == expected


def test_records() -> None:
    points = [OperatingPoint(0.5, 0.4, 3.0, None, (0.25, 0.75)), OperatingPoint(1, 0.5, 4.0, None, (0.0, 1.0))]
    measured = MeasuredTradeOff(
        ["mv/layer1", "mv/final"], 3, 1, 20, 0, 1, 0.5, 0.5, [], points, {"mv": NetworkPoint(0.5, 3.5, 0.1)}, "UCF101"
    )
    assert MeasuredTradeOff.from_record(json.loads(json.dumps(measured.to_record()))) == measured
    assert (measured.chosen_test, measured.without_exits) == tuple(points)
