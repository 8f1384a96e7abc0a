"""Teach the early exits of frozen networks by one teacher after the other: progressive knowledge distillation (PKD).

Soufleri, Ravikumar, Roy, "Advancing Compressed Video Action Recognition through Progressive Knowledge Distillation"
(arXiv 2407.02713), section 3. One run trains every exit of every network, where the public code makes a run of each.
"""

from typing import Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.agreement import check_labelled
from lightning_modules.exit_networks import ExitNetworks, Layouts, attach_exits, output_logits
from lightning_modules.exit_networks_module import ExitNetworksModule
from lightning_modules.hyper_parameters import live_arguments
from lightning_modules.losses import SoftTargetLoss, hard_label_cross_entropy
from lightning_modules.metrics import AccuracyPerExit, hard_labels
from lightning_modules.networks.early_exit import FINAL
from lightning_modules.parameter_rules import ParameterRule, build_optimizer, build_scheduler, with_schedule
from lightning_modules.training_log import TrainingLog

OWN, LABELS = "own", "labels"


class ProgressiveDistillationModule(ExitNetworksModule, TrainingLog):
    """Internal classifiers of trained, frozen networks, learning from the networks' own classifiers.

    ::

        batch.streams["mv"] ------> frozen network --> internal classifiers        <--+
        batch.streams["residual"] > frozen network --> internal classifiers        <--+-- soft targets of the teacher
        batch.streams["iframe"] --> frozen network --> internal classifiers        <--+   in charge
                                          |                                           |
                                          +--> own classifiers ("mv", "residual", "iframe")

    Every network runs forward once per step, whatever teaches. A callback puts a teacher in charge by setting
    ``teacher``: a stream (its network's own classifier, or its head where a network joins several streams, as TEAM-Net
    does), ``own`` (for each network, its own) or ``labels``.
    A checkpoint holds the networks too: it is all that inference needs.

    Logs ``train/loss``, the sum over classifiers, and every term of it as ``train/loss/<term>``; and over whole splits
    ``val/`` and ``test/`` ``top1/<stream>/<exit>`` of every exit and head, ``top1`` and ``loss`` (cross-entropy against
    the labels), means over the internal classifiers, and ``num_videos``.

    Args:
        networks: checkpoint of a ``RecognitionModule`` by stream.
        stages: the callback that puts teachers in charge, ``callbacks.ProgressiveStages``; None: among the trainer's.
        exits: internal classifiers: the name of a layout for all networks, or one by stream; there also by depth, as
            ``{mv: {layer2: {class_path: lightning_modules.networks.LinearClassifier}}}`` (see ``exit_layout``).
        loss: what classifiers learn from a teacher.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the scheduler from the optimizer.
        lr_interval: whether the scheduler steps after every epoch or every step.
        parameter_rules: learning rates and weight decays by parameter name (``networks.mv.classifiers.layer1...``).
    """

    def __init__(
        self,
        networks: dict[str, str],
        stages: Callback | None = None,
        *,
        exits: Layouts = "convolutional",
        loss: SoftTargetLoss | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        parameter_rules: list[ParameterRule] | None = None,
    ) -> None:
        super().__init__(networks)
        self.save_hyperparameters(
            ignore=live_arguments("stages", "loss", "optimizer", "lr_scheduler", "parameter_rules")
        )
        self.layouts = exits
        self.stages = stages
        self.loss = loss or SoftTargetLoss()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.parameter_rules = parameter_rules or []
        self.teacher: str | None = None

    @property
    def teachers(self) -> list[str]:
        """What may be in charge."""
        return [*self.networks.teachers, OWN, LABELS]

    def forward(self, batch: ClipBatch) -> Tensor:
        """Classify the B videos of a batch at all exits and by all heads of networks that have several.

        Returns:
            (B, K + heads, num_classes) float32, in order of ``networks.output_names``.
        """
        return output_logits(self.networks, batch, self.device)

    def losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of the loss by name, each a sum over internal classifiers of means over the batch.

        Args:
            logits: (B, K + heads, num_classes), as of ``forward``.
            labels: (B,) int64, or (B, num_classes) probabilities.
        """
        students = logits[:, self.student_places]
        if self.teacher == LABELS:
            terms = {"hard_label": hard_label_cross_entropy(students, labels)}
        else:
            terms = self.loss(students, logits[:, self.teacher_places], labels)
        return {name: term.sum() for name, term in terms.items()}

    @property
    def student_places(self) -> list[int]:
        """The internal classifiers among the exits."""
        return [place for place, name in enumerate(self.networks.exit_names) if not name.endswith(f"/{FINAL}")]

    @property
    def teacher_places(self) -> list[int]:
        """For each internal classifier, the output that teaches it."""
        assert self.teacher is not None
        names, teachers = self.networks.output_names, self.networks.teachers
        streams = [names[place].split("/")[0] for place in self.student_places]
        return [names.index(teachers[stream if self.teacher == OWN else self.teacher]) for stream in streams]

    @override
    def read_sources(self) -> ExitNetworks:
        return attach_exits(self.sources, self.layouts)

    @override
    def adopt(self, exit_networks: ExitNetworks) -> None:
        super().adopt(exit_networks)
        for stream, network in self.networks.networks.items():
            if len(network.exit_names) == 1:  # type: ignore[arg-type]
                raise ValueError(f"`model.init_args.exits.{stream}`: expected internal classifiers to teach, came none")
        self.accuracies = AccuracyPerExit(len(self.networks.output_names))
        self.mean_loss = MeanMetric()

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [] if self.stages is None else [self.stages]

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.exit_networks is None:
            self.load_sources()
        optimizer = build_optimizer(self.optimizer, self.networks, self.parameter_rules)
        return with_schedule(optimizer, self.lr_scheduler, self.lr_interval)

    def restart_schedule(self) -> None:
        """Start the learning rate and its schedule anew; the optimizer keeps its moments."""
        for config in self.trainer.lr_scheduler_configs:
            optimizer = config.scheduler.optimizer
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"]
            assert self.lr_scheduler is not None
            config.scheduler = build_scheduler(self.lr_scheduler, optimizer)

    @override
    def on_train_start(self) -> None:
        if self.teacher is None:
            teachers = list(self.networks.teachers)
            raise ValueError(
                "no teacher is in charge: give `model.init_args.stages`, "
                f"e.g. {{class_path: callbacks.ProgressiveStages, init_args: {{teachers: {teachers}}}}}"
            )
        self.networks.train()

    @override
    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        check_labelled(batch)
        return self.log_training(self.losses(self(batch), batch.labels), len(batch), batch_idx)

    @override
    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    @override
    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    @override
    def on_predict_start(self) -> None:
        raise ValueError(
            "the exits of this model do not yet add up to one prediction: fit a WeightedInferenceModule on its "
            "checkpoint (configs/demo/wise.yaml), and predict with that"
        )

    def _evaluate(self, batch: ClipBatch) -> None:
        """Take in a batch, unless no video of it could be read."""
        if not len(batch):
            return
        check_labelled(batch)
        logits = self(batch)
        self.accuracies.update(logits.transpose(0, 1), hard_labels(batch.labels))
        self.mean_loss.update(hard_label_cross_entropy(logits[:, self.student_places], batch.labels).mean(), len(batch))

    def _log_metrics(self, split: str) -> None:
        accuracies = self.accuracies.compute()
        values = {f"top1/{name}": value for name, value in zip(self.networks.output_names, accuracies, strict=True)}
        values["top1"] = torch.stack([accuracies[place] for place in self.student_places]).mean()
        values["loss"] = self.mean_loss.compute()
        values["num_videos"] = self.accuracies.num_videos.float()
        for name, value in values.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "top1", sync_dist=True)
        self.accuracies.reset()
        self.mean_loss.reset()
