"""Accuracy over a whole split, exact whatever the number of ranks and the sizes of their batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision


class ClassificationMetrics(nn.Module):
    """Mean loss, number of videos, and top-1 and top-5 accuracy or mean average precision.

    Args:
        num_classes: length of the logits.
        multi_label: videos may have several labels: ``mAP`` instead of ``top1`` and ``top5``.
    """

    def __init__(self, num_classes: int, *, multi_label: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.loss = MeanMetric()
        self.num_videos = SumMetric()
        self.scores = _mean_average_precision(num_classes) if multi_label else _accuracies(num_classes)
        self.reset()

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Take in a batch, which may be empty.

        Args:
            logits: (B, num_classes) float.
            labels: (B,) int64, or (B, num_classes): probabilities, or multi-hot if ``multi_label``.
            loss: () float, mean over the batch.
        """
        if len(logits) == 0:
            return
        self.loss.update(loss, len(logits))
        self.num_videos.update(len(logits))
        if self.multi_label:
            # Order alone counts. A sigmoid would tie all large logits; softsign in float64 keeps them apart.
            self.scores.update(0.5 + 0.5 * F.softsign(logits.double()), labels.long())
        else:
            self.scores.update(logits, hard_labels(labels))

    def compute(self) -> dict[str, Tensor]:
        """Values over everything since the last reset, on all ranks: ``loss``, ``num_videos`` and the scores."""
        return {"loss": self.loss.compute(), "num_videos": self.num_videos.compute(), **self.scores.compute()}

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.loss, self.num_videos, self.scores):
            metric.reset()
        if self.multi_label:
            # A rank that gets no video must still gather tensors of as many dimensions as the others.
            nothing = torch.empty(0, self.num_classes, device=self.scores["mAP"].device)
            self.scores.update(nothing.double(), nothing.long())


class AccuracyPerExit(Metric):
    """Top-1 accuracy of several exits or networks at once, exact over ranks.

    Args:
        num_exits: K.
    """

    correct: Tensor
    num_videos: Tensor

    def __init__(self, num_exits: int) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(num_exits, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in logits (K, B, num_classes) float and labels (B,) int64."""
        self.correct += (logits.argmax(dim=2) == labels).sum(dim=1)
        self.num_videos += len(labels)

    def compute(self) -> tuple[Tensor, ...]:
        """K accuracies, float32 scalars; a tensor (1,) torchmetrics would squeeze."""
        return (self.correct / self.num_videos).unbind()


def hard_labels(labels: Tensor) -> Tensor:
    """(B,) int64 as they are; (B, num_classes) probabilities -> (B,) int64, the likeliest class."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels


def _accuracies(num_classes: int) -> MetricCollection:
    return MetricCollection(
        {
            f"top{k}": MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro", validate_args=False)
            for k in (1, 5)
        },
        compute_groups=False,
    )


def _mean_average_precision(num_classes: int) -> MetricCollection:
    metric = MultilabelAveragePrecision(num_classes, average="macro", validate_args=False)
    return MetricCollection({"mAP": metric})
