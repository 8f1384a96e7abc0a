"""Metrics over a split against scikit-learn and plain counting, however the split is cut into batches."""

import pytest
import torch
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from lightning_modules.metrics import AccuracyPerExit, ClassificationMetrics, EarlyExitMetrics


def evaluate(metrics: ClassificationMetrics, logits: torch.Tensor, labels: torch.Tensor, cuts: list[int]) -> dict:
    for some_logits, some_labels in zip(logits.split(cuts), labels.split(cuts), strict=True):
        loss = some_logits.square().mean(dim=1).mean()  # any mean over the batch
        metrics.update(some_logits, some_labels, loss)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("cuts", [[50], [20, 0, 29, 1]])
def test_accuracies_are_exact_whatever_the_batches(cuts: list[int]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 12), torch.arange(50) % 12
    came = evaluate(ClassificationMetrics(12), logits, labels, cuts)
    assert came["top1"] == pytest.approx(top_k_accuracy_score(labels, logits, k=1))
    assert came["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert came["loss"] == pytest.approx(logits.square().mean().item(), rel=1e-6)
    assert came["num_videos"] == 50


@pytest.mark.parametrize("cuts", [[60], [20, 0, 39, 1]])
@pytest.mark.parametrize("scale", [1.0, 50.0])  # at 50, a sigmoid saturates
def test_mean_average_precision_is_exact(cuts: list[int], scale: float) -> None:
    torch.manual_seed(0)
    logits, labels = scale * torch.rand(60, 7).add(-0.2), (torch.rand(60, 7) < 0.3).float()
    came = evaluate(ClassificationMetrics(7, multi_label=True), logits, labels, cuts)
    assert came["mAP"] == pytest.approx(average_precision_score(labels, logits, average="macro"), abs=1e-6)
    assert came.keys() == {"loss", "num_videos", "mAP"}


def test_fewer_than_five_classes() -> None:
    assert evaluate(ClassificationMetrics(3), torch.randn(8, 3), torch.zeros(8).long(), [8])["top5"] == 1


def test_soft_labels_count_by_their_likeliest_class() -> None:
    labels = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    assert evaluate(ClassificationMetrics(2), torch.eye(2)[[0, 0]], labels, [2])["top1"] == 0.5


def test_reset_forgets() -> None:
    metrics = ClassificationMetrics(3)
    evaluate(metrics, torch.randn(8, 3), torch.zeros(8).long(), [8])
    metrics.reset()
    assert evaluate(metrics, torch.randn(2, 3), torch.zeros(2).long(), [2])["num_videos"] == 2


def test_metrics_stay_out_of_checkpoints() -> None:
    assert not ClassificationMetrics(3).state_dict()


@pytest.mark.parametrize("num_exits", [1, 3])
def test_accuracies_per_exit(num_exits: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(num_exits, 40, 5), torch.arange(40) % 5
    metric = AccuracyPerExit(num_exits)
    for start, end in [(0, 7), (7, 7), (7, 40)]:
        metric.update(logits[:, start:end], labels[start:end])
    expected = [top_k_accuracy_score(labels, scores, k=1) for scores in logits]
    assert [accuracy.item() for accuracy in metric.compute()] == pytest.approx(expected)


@pytest.mark.parametrize("soft", [False, True])
def test_metrics_of_early_exits(soft: bool) -> None:
    """Six videos; exit 1 is always right, exit 2 never, and every third video leaves at it."""
    labels, exits = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 1, 0, 0, 1])
    right = torch.eye(3)[labels]
    outputs = torch.stack([right, -right])
    metrics, given = EarlyExitMetrics(2, 3), 0.8 * right + 0.1 if soft else labels
    for chosen in (slice(0, 4), slice(4, 4), slice(4, 6)):
        metrics.update(outputs[:, chosen].flip(0), outputs[:, chosen], exits[chosen], given[chosen])
    came = {name: value.item() for name, value in metrics.compute(["a", "b"]).items()}
    expected = {"top1/a": 1, "top1/b": 0, "top1_alone/a": 0, "top1_alone/b": 1, "exited/a": 4 / 6, "exited/b": 2 / 6}
    assert {name: came[name] for name in expected} == pytest.approx(expected)
    assert (came["num_videos"], came["top1"]) == (6, pytest.approx(4 / 6))
