"""Accuracy over a whole split, exact whatever the number of ranks and the sizes of their batches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision

from lightning_modules.ensemble import take


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


class FractionPerExit(Metric):
    """Of how many videos something is true at each of several exits, exact over ranks.

    Args:
        num_exits: K.
    """

    hits: Tensor
    num_videos: Tensor

    def __init__(self, num_exits: int) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(num_exits, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, hits: Tensor) -> None:
        """Take in hits (K, B) bool."""
        self.hits += hits.sum(dim=1)
        self.num_videos += hits.shape[1]

    def compute(self) -> tuple[Tensor, ...]:
        """K fractions, float32 scalars; a tensor (1,) torchmetrics would squeeze."""
        return (self.hits / self.num_videos).unbind()


class AccuracyPerExit(FractionPerExit):
    """Top-1 accuracy of several exits or networks at once, exact over ranks."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Take in logits (K, B, num_classes) float and labels (B,) int64."""
        super().update(logits.argmax(dim=2) == labels)


class EarlyExitMetrics(nn.Module):
    """Metrics of the outputs that videos leave with, and by exit: accuracies, and how many videos leave there.

    Args:
        num_exits: K.
        num_classes: length of the logits.
    """

    def __init__(self, num_exits: int, num_classes: int) -> None:
        super().__init__()
        self.taken = ClassificationMetrics(num_classes)
        self.combined = AccuracyPerExit(num_exits)
        self.alone = AccuracyPerExit(num_exits)
        self.exited = FractionPerExit(num_exits)

    def update(self, logits: Tensor, outputs: Tensor, exits: Tensor, labels: Tensor) -> None:
        """Take in a batch, which may be empty.

        Args:
            logits: (K, B, num_classes) float, of each exit alone.
            outputs: (K, B, num_classes) float, combined.
            exits: (B,) int64, where each video leaves, 0 to K - 1.
            labels: (B,) int64, or (B, num_classes) probabilities.
        """
        if len(exits) == 0:
            return
        self.update_taken(take(outputs, exits), exits, labels)
        self.combined.update(outputs, hard_labels(labels))
        self.alone.update(logits, hard_labels(labels))

    def update_taken(self, taken: Tensor, exits: Tensor, labels: Tensor) -> None:
        """As ``update``, where no more is known than what videos left with, ``taken`` (B, num_classes) float."""
        if len(exits) == 0:
            return
        self.taken.update(taken, labels, F.cross_entropy(taken, labels))
        self.exited.update(F.one_hot(exits, len(self.exited.hits)).T)
        nothing = taken.new_empty(len(self.exited.hits), 0, taken.shape[1])
        for metric in (self.combined, self.alone):  # which torchmetrics would miss
            metric.update(nothing, hard_labels(labels[:0]))

    def compute(self, exit_names: Sequence[str]) -> dict[str, Tensor]:
        """Those of ``ClassificationMetrics``; ``top1``, ``top1_alone`` and ``exited``, each ``/<exit>``, if known."""
        per_exit = {"top1": self.combined, "top1_alone": self.alone, "exited": self.exited}
        return self.taken.compute() | {
            f"{name}/{exit}": value
            for name, metric in per_exit.items()
            for exit, value in zip(exit_names, metric.compute(), strict=True)
            if not value.isnan()
        }

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.taken, self.combined, self.alone, self.exited):
            metric.reset()


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
