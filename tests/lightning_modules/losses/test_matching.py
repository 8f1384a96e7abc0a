"""What a student learns from a teacher at another resolution, in float64, element by element."""

from math import exp, floor, log

import pytest
import torch
from torch import Tensor

from lightning_modules.losses import (
    ClipLogitMatching,
    FeatureMatching,
    FrameLogitMatching,
    Matching,
    PositionLogitMatching,
)
from lightning_modules.networks import resnet10, video_swin_t
from lightning_modules.networks.resize import resize_maps
from lightning_modules.networks.taps import Taps

CLASSES = 3


def interpolated(rows: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear between pixel centres, edges repeated."""

    def along(size: int, target: int) -> list[tuple[int, int, float]]:
        places = [max((t + 0.5) * size / target - 0.5, 0) for t in range(target)]
        return [(floor(p), min(floor(p) + 1, size - 1), p - floor(p)) for p in places]

    return [
        [
            (1 - v) * ((1 - u) * rows[top][left] + u * rows[top][right])
            + v * ((1 - u) * rows[bottom][left] + u * rows[bottom][right])
            for left, right, u in along(len(rows[0]), width)
        ]
        for top, bottom, v in along(len(rows), height)
    ]


class LinearHead:
    pools_time = False

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def classifier(self, features: Tensor) -> Tensor:
        return features @ self.weight + 0.3

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(features.mean((-2, -1)))

    def classify(self, features: Tensor) -> Tensor:
        return self.forward_head(features).mean(1)


def taps(*shape: int, seed: int) -> Taps:
    """Random maps under a random linear head after average pooling, float64."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(*shape, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[2], CLASSES, generator=random, dtype=torch.float64)
    return Taps(features, LinearHead(weight))


@pytest.fixture
def student() -> Taps:
    return taps(2, 3, 4, 2, 3, seed=0)


@pytest.fixture
def teacher() -> Taps:
    return taps(2, 3, 4, 5, 4, seed=1)


def divergence(teacher: list[float], student: list[float], temperature: float) -> float:
    """KL of one pair of softened distributions."""
    p, q = ([exp(z / temperature) for z in logits] for logits in (teacher, student))
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    return sum(x * (log(x) - log(y)) for x, y in zip(p, q, strict=True))


def pairs(teacher: Tensor, student: Tensor) -> list[tuple[list[float], list[float]]]:
    rows = (logits.detach().flatten(0, -2).tolist() for logits in (teacher, student))
    return list(zip(*rows, strict=True))


def test_features_equal_the_mean_squared_error_of_interpolated_maps(student: Taps, teacher: Taps) -> None:
    total = 0.0
    for maps, targets in zip(student.features.flatten(0, 2), teacher.features.flatten(0, 2), strict=True):
        found = torch.tensor(interpolated(maps.tolist(), 5, 4), dtype=torch.float64)
        total += float((found - targets).square().sum())
    assert FeatureMatching(7.0)(student, teacher).item() == pytest.approx(7 * total / (2 * 3 * 4 * 5 * 4), rel=1e-12)


def test_maps_of_one_grid_are_compared_as_they_are(teacher: Taps) -> None:
    other = taps(2, 3, 4, 5, 4, seed=2)
    expected = 100 * (other.features - teacher.features).square().mean()
    torch.testing.assert_close(FeatureMatching()(other, teacher), expected)


@pytest.mark.parametrize(("reduction", "share"), [("positions", 1), ("elements", CLASSES)])
def test_positions_equal_the_divergence_at_each_of_them(student: Taps, teacher: Taps, reduction, share) -> None:
    up = Taps(resize_maps(student.features, (5, 4)), student.head)  # features up-sampled before they are classified
    found = pairs(teacher.position_logits.movedim(2, -1), up.position_logits.movedim(2, -1))
    expected = 9 * sum(divergence(p, q, 3.0) for p, q in found) / len(found) / share
    assert len(found) == 2 * 3 * 5 * 4
    loss = PositionLogitMatching(2.0, 3.0, reduction)
    assert loss(student, teacher).item() == pytest.approx(2 * expected, rel=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_upsampled_logits_are_those_of_upsampled_features(training: bool) -> None:
    """On a real head, to 1e-6, though features are dropped in training."""
    network = resnet10(5, 3, width=4, dropout=0.5).train(training)
    own = Taps.of(network, torch.randn(2, 3, 3, 64, 64))
    up = Taps(resize_maps(own.features, (7, 7)), network)
    torch.testing.assert_close(resize_maps(own.position_logits, (7, 7)), up.position_logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [resnet10, video_swin_t])
def test_taps_are_the_networks_answers(build) -> None:
    network, clip = build(5, 3).eval(), torch.randn(2, 4, 3, 64, 64)
    own = Taps.of(network, clip)
    torch.testing.assert_close(own.clip_logits, network(clip))
    torch.testing.assert_close(own.frame_logits, network.frame_logits(clip))
    torch.testing.assert_close(own.position_logits.mean((-2, -1)), own.frame_logits)
    torch.testing.assert_close(own.frame_logits.mean(1), own.clip_logits)


def test_frames_and_clips(student: Taps, teacher: Taps) -> None:
    frames = pairs(teacher.frame_logits, student.frame_logits)
    expected = 4 * sum(divergence(p, q, 2.0) for p, q in frames) / 6
    assert FrameLogitMatching(3.0)(student, teacher).item() == pytest.approx(3 * expected, rel=1e-12)
    clips = pairs(teacher.frame_logits.mean(1), student.frame_logits.mean(1))
    expected = sum(divergence(p, q, 1.0) for p, q in clips) / 2
    assert ClipLogitMatching(3.0, 1.0)(student, teacher).item() == pytest.approx(3 * expected, rel=1e-12)


@pytest.mark.parametrize(
    "matching", [FeatureMatching(), PositionLogitMatching(), FrameLogitMatching(), ClipLogitMatching()]
)
def test_gradients_reach_the_student_alone(matching: Matching, student: Taps, teacher: Taps) -> None:
    matching(student, teacher).backward()
    assert student.features.grad.abs().sum() > 0
    assert teacher.features.grad is None


def test_frames_and_clips_see_the_same_features_dropped() -> None:
    network = resnet10(5, 3, width=4, dropout=0.5).train()
    own = Taps.of(network, torch.randn(2, 3, 3, 64, 64))
    assert torch.equal(own.frame_logits.mean(1), own.clip_logits)


@pytest.mark.parametrize(
    "matching", [FeatureMatching(), PositionLogitMatching(), FrameLogitMatching(), ClipLogitMatching()]
)
def test_mixed_precision_takes_differences_in_float32(matching: Matching) -> None:
    """A teacher that differs by little: in bfloat16 the divergence would be many times too large, or negative."""
    random = torch.Generator().manual_seed(5)
    head = LinearHead(20 * torch.randn(4, CLASSES, generator=random).bfloat16())
    features = torch.randn(2, 3, 4, 5, 4, generator=random).bfloat16()
    close = (features.float() + 0.01 * torch.randn(features.shape, generator=random)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        came = matching(Taps(features, head), Taps(close, head))
    exact = [Taps(maps.double(), head) for maps in (features, close)]
    for taps in exact:  # the logits of mixed precision, from which everything is exact
        for name in ("clip_logits", "frame_logits", "position_logits"):
            taps.__dict__[name] = getattr(Taps(taps.features.bfloat16(), head), name).double()
    expected = matching(*exact)
    assert came.dtype == torch.float32
    assert came.item() == pytest.approx(expected.item(), rel=1e-3)


def test_other_channels_are_refused_with_both_grids(teacher: Taps) -> None:
    other = taps(2, 3, 6, 2, 3, seed=2)
    message = (
        r"6 channels on a grid of 2x3 of the student and .* 4 channels on a grid of 5x4 of the teacher; .*Position"
    )
    with pytest.raises(ValueError, match=message):
        FeatureMatching()(other, teacher)
    assert PositionLogitMatching()(other, teacher).isfinite()


def test_other_frames_are_refused(teacher: Taps) -> None:
    other = taps(2, 2, 4, 2, 3, seed=2)
    for matching in (FeatureMatching(), PositionLogitMatching(), FrameLogitMatching()):
        with pytest.raises(ValueError, match=r"2 clips x 2 frames .* 2 clips x 3 frames .* as many frames"):
            matching(other, teacher)
    assert ClipLogitMatching()(other, teacher).isfinite(), "clips may be compared"


def test_the_effective_weight_is_told() -> None:
    by_positions, by_elements = PositionLogitMatching(0.5, 2.0), PositionLogitMatching(200.0, 2.0, "elements")
    for matching in (by_positions, by_elements):
        assert ": 2 x KL, summed over 400 classes" in matching.describe(400)
    assert ": 800 x KL" in PositionLogitMatching(200.0, 2.0).describe(400)
    assert FeatureMatching().describe(5) == "100 x squared error of the last maps, mean over all elements"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureMatching(-1.0), "`matching.weight`: expected 0 or more, came -1"),
        (lambda: ClipLogitMatching(1.0, 0.0), "`matching.temperature`: expected more than 0"),
        (lambda: PositionLogitMatching(reduction="batchmean"), "`matching.reduction`: expected positions or elements"),
    ],
)
def test_refusals(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
