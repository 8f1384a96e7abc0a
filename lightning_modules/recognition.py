"""Train and test one network on one stream: teachers and baselines."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.agreement import check_classes, check_labelled, check_streams, num_classes_of, stream_of
from lightning_modules.analysis.loss_surface import cross_entropy
from lightning_modules.analysis.target import AnalysisTarget
from lightning_modules.checkpoints import without_weights
from lightning_modules.ensemble import average_views
from lightning_modules.hyper_parameters import live_arguments
from lightning_modules.metrics import ClassificationMetrics, hard_labels
from lightning_modules.parameter_rules import ParameterRule, build_optimizer, with_schedule
from lightning_modules.predictions import Predictions
from lightning_modules.training_log import TrainingLog, total

MultiLabelLoss = Literal["binary", "softmax"]


class RecognitionModule(TrainingLog):
    """One network on one stream, learning from labels.

    Logs ``train/loss``, every term of it as ``train/loss/<term>``, ``train/top1``; and over whole splits ``val/`` and
    ``test/`` ``loss``, ``num_videos``, ``top1`` and ``top5``, or ``mAP`` if ``multi_label``.

    Checkpoints of runs from a config rebuild by ``RecognitionModule.load_from_checkpoint(path, weights_only=True)``;
    of one built in Python, where there is no config to keep, add ``network=...``.

    Args:
        network: clips (B, T, C, H, W) -> logits (B, num_classes); declares ``num_classes`` and ``in_channels``.
        stream: which stream of the batches it sees.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the scheduler from the optimizer.
        lr_interval: whether the scheduler steps after every epoch or every step.
        label_smoothing: share of the target spread evenly over all classes.
        multi_label: videos may have several labels, (B, num_classes) multi-hot.
        multi_label_loss: of such labels. "binary": binary cross-entropy, mean over the classes. "softmax":
            cross-entropy under one softmax, summed over a video's labels, as in ResKD's public code; it weighs about
            num_classes times as much, and keeps learning rates and weights of other terms as for one label.
        parameter_rules: learning rates and weight decays by parameter name; the first match counts.
        freeze_batch_norm: train with BatchNorm's running statistics, left as they are; weights and biases still learn.
    """

    LIVE_ARGUMENTS: tuple[str, ...] = ("network", "optimizer", "lr_scheduler", "parameter_rules")

    def __init__(
        self,
        network: nn.Module,
        stream: str,
        *,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        label_smoothing: float = 0.0,
        multi_label: bool = False,
        multi_label_loss: MultiLabelLoss = "binary",
        parameter_rules: list[ParameterRule] | None = None,
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if multi_label and label_smoothing:
            raise ValueError(f"expected `label_smoothing: 0` with `multi_label: true`, came {label_smoothing}")
        if multi_label_loss not in _MULTI_LABEL_LOSSES:
            raise ValueError(f"`multi_label_loss`: expected binary or softmax, came {multi_label_loss!r}")
        self.save_hyperparameters(ignore=live_arguments(*self.LIVE_ARGUMENTS))
        self.network = network
        self.stream = stream
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.label_smoothing = label_smoothing
        self.multi_label = multi_label
        self.multi_label_loss: MultiLabelLoss = multi_label_loss
        self.parameter_rules = parameter_rules or []
        self.freeze_batch_norm = freeze_batch_norm
        self.num_classes = num_classes_of(network)
        self.val_metrics = ClassificationMetrics(self.num_classes, multi_label=multi_label)
        self.test_metrics = ClassificationMetrics(self.num_classes, multi_label=multi_label)

    def forward(self, batch: ClipBatch) -> Tensor:
        """Classify the B videos of a batch: (B, num_classes) float32 logits, the mean over their views."""
        clips = stream_of(batch, self.stream, self.network)
        if len(batch) == 0:
            return torch.zeros(0, self.num_classes, device=self.device)
        return average_views(self.network(clips).float(), batch.num_views)

    def losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms whose sum is the loss, each a mean over the batch.

        Args:
            logits: (B, num_classes) float32.
            labels: (B,) int64, or (B, num_classes): probabilities, or multi-hot if ``multi_label``.
        """
        if self.multi_label:
            term, loss = _MULTI_LABEL_LOSSES[self.multi_label_loss]
            return {term: loss(logits, labels)}
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def answer(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """What training makes of a batch: logits (B, num_classes), and terms of the loss beside those of the labels."""
        return self(batch), {}

    def analysis_targets(self) -> dict[str, AnalysisTarget]:
        """What ``callbacks.flatness`` and ``callbacks.visual_explanations`` analyse: the network.

        Its loss is that of the labels alone, without smoothing.
        """
        loss = _MULTI_LABEL_LOSSES[self.multi_label_loss][1] if self.multi_label else cross_entropy
        return {self.stream: AnalysisTarget(self.network, self.stream, loss=loss)}

    @override
    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        check_streams(datamodule, [self.stream])
        if stage != "predict":  # the videos may be of any class then, and the data know none
            check_classes(datamodule, self.num_classes)

    @override
    def train(self, mode: bool = True) -> "RecognitionModule":
        super().train(mode)
        self._freeze_batch_norm()
        return self

    @override
    def on_train_start(self) -> None:
        # Lightning itself calls train() on nothing: a freshly built module has never been through ours.
        self._freeze_batch_norm()

    @override
    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        check_labelled(batch, multi_label=self.multi_label)
        logits, others = self.answer(batch)
        scores = {} if self.multi_label else {"top1": _accuracy(logits, batch.labels)}
        return self.log_training(self.losses(logits, batch.labels) | others, len(batch), batch_idx, **scores)

    @override
    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        return self._evaluate(batch, self.val_metrics)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    @override
    def test_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        return self._evaluate(batch, self.test_metrics)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    @override
    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:
        return Predictions(batch.paths, self(batch), batch.seconds, batch.failures)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self.optimizer, self.network, self.parameter_rules)
        return with_schedule(optimizer, self.lr_scheduler, self.lr_interval)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A checkpoint is whole: rebuilding from it must not fetch the weights that training started from.
        hparams = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if "network" in hparams:
            hparams["network"] = without_weights(hparams["network"])

    def _freeze_batch_norm(self) -> None:
        if self.freeze_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _evaluate(self, batch: ClipBatch, metrics: ClassificationMetrics) -> Predictions:
        """Take in a batch, unless no video of it could be read; callbacks get the predictions."""
        logits = self(batch)
        if len(batch):
            check_labelled(batch, multi_label=self.multi_label)
            metrics.update(logits, batch.labels, total(self.losses(logits, batch.labels)))
        return Predictions(batch.paths, logits, batch.seconds, batch.failures)

    def _log_metrics(self, split: str, metrics: ClassificationMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name in ("top1", "mAP"), sync_dist=True)
        metrics.reset()


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == hard_labels(labels)).float().mean()


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels.float())


def _softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.float())


# The term it is logged by, and the mean over videos.
_MULTI_LABEL_LOSSES: dict[MultiLabelLoss, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "binary": ("binary_cross_entropy", _binary_cross_entropy),
    "softmax": ("cross_entropy", _softmax_cross_entropy),
}
