"""Learned weights over the logits of several networks: score fusion of whole networks, one for each stream.

CoViAR (Wu et al., CVPR 2018) fuses by fixed weights; here they are fitted on videos the networks were not trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.agreement import (
    check_classes,
    check_labelled,
    check_same_classes,
    check_streams,
    num_classes_of,
    stream_of,
)
from lightning_modules.checkpoints import TrainedNetwork, build_network, freeze, load_network
from lightning_modules.ensemble import average_views, combine, fit_scales
from lightning_modules.metrics import AccuracyPerExit, ClassificationMetrics
from lightning_modules.predictions import Predictions

# What a checkpoint holds beside the weights: the networks' configs, the class names, logits gathered so far.
STATE = "score_fusion"


class ScoreFusionModule(LightningModule):
    """Sum of the logits of trained, frozen networks, each times a scale.

    ::

        batch.streams["mv"] ------> network --> logits * scale --+
        batch.streams["residual"] > network --> logits * scale --+--> fused logits
        batch.streams["iframe"] --> network --> logits * scale --+

    ``fit`` is one epoch without gradients: it gathers the logits of all its videos and, with the last batch, solves for
    the scales. Give it videos the networks were not trained on: ``data.init_args.fit_split: val``. All ranks must make
    as many steps, as ever in Lightning; a video that comes twice for that, counts once. A checkpoint holds
    the networks too: ``test`` and ``predict`` from it do not read the files in ``networks``, nor does a resumed fit.

    Logs ``val/`` and ``test/`` ``loss``, ``num_videos``, ``top1``, ``top5`` and, of each network alone,
    ``top1/<stream>``; after fitting ``train/loss`` and ``train/scale/<stream>``.

    Args:
        networks: checkpoint of a ``RecognitionModule`` by stream.
        l1: weight of the sum of absolute scales beside the cross-entropy.
        non_negative: allow no scale below 0.
    """

    def __init__(self, networks: dict[str, str], *, l1: float = 0.0, non_negative: bool = False) -> None:
        super().__init__()
        if not networks:
            raise ValueError("expected at least one checkpoint by stream in `model.init_args.networks`, came none")
        self.save_hyperparameters()
        self.sources = networks
        self.l1 = l1
        self.non_negative = non_negative
        self.networks = nn.ModuleDict()
        self.configs: dict[str, dict[str, Any]] = {}
        self.classes: list[str] = []
        # A parameter, since optimizers and DistributedDataParallel refuse modules without; its gradient is always 0.
        self.scales = nn.Parameter(torch.ones(len(networks)))
        self.gathered: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: ClipBatch) -> Tensor:
        """Classify the B videos of a batch: (B, num_classes) float32 logits."""
        return combine(self.stream_logits(batch), self.scales)

    @torch.no_grad()
    def stream_logits(self, batch: ClipBatch) -> Tensor:
        """The logits of each network alone, averaged over views: (K, B, num_classes) float32."""
        if len(batch) == 0:
            return torch.zeros(len(self.networks), 0, self.num_classes, device=self.device)
        logits = [
            average_views(network(stream_of(batch, stream, network)).float(), batch.num_views)
            for stream, network in self.networks.items()
        ]
        return torch.stack(logits)

    @override
    def setup(self, stage: str) -> None:
        # A resumed fit gets its networks from the checkpoint, which is read later: missing files may be none of our
        # business here. `on_fit_start` knows.
        if stage == "fit" and not self.networks and all(Path(path).is_file() for path in self.sources.values()):
            self._load_sources()
        self._check_data()

    @override
    def on_fit_start(self) -> None:
        if not self.networks:
            self._load_sources()

    @override
    def train(self, mode: bool = True) -> "ScoreFusionModule":
        super().train(mode)
        self.networks.eval()
        return self

    @override
    def on_train_start(self) -> None:
        freeze(self.networks)

    @override
    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        check_labelled(batch)
        # A substitute stands for a video that could not be read; it has its own turn anyway.
        kept = ~batch.substituted
        logits = self.stream_logits(batch).transpose(0, 1)
        self.gathered.append((batch.indices[kept], logits[kept], batch.labels[kept]))
        if self.trainer.is_last_batch:
            self._fit()
        return 0 * self.scales.sum()

    @override
    def on_validation_start(self) -> None:
        if not self.networks:
            raise ValueError(
                f"{type(self).__name__} has no networks: run `fit`, or give its own checkpoint (--ckpt_path)"
            )

    on_test_start = on_predict_start = on_validation_start

    @override
    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        return self._evaluate(batch, self.val_metrics, self.val_accuracies)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics, self.val_accuracies)

    @override
    def test_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        return self._evaluate(batch, self.test_metrics, self.test_accuracies)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics, self.test_accuracies)

    @override
    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:
        return Predictions(batch.paths, self(batch), batch.seconds, batch.failures)

    @override
    def configure_optimizers(self) -> Optimizer:
        # Changes nothing, but counts: without steps of an optimizer, Lightning writes no checkpoint.
        return SGD([self.scales], lr=0.0)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        gathered = list(self._gather()) if self.gathered else []
        checkpoint[STATE] = {"configs": self.configs, "classes": self.classes, "gathered": gathered}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[STATE]
        if state["configs"].keys() != self.sources.keys():
            raise ValueError(
                f"the checkpoint fuses {list(state['configs'])}, `model.init_args.networks` names {list(self.sources)}"
            )
        networks = {stream: freeze(build_network(config)) for stream, config in state["configs"].items()}
        self._adopt(networks, state["configs"], state["classes"])
        self.gathered = [tuple(state["gathered"])] if state["gathered"] else []
        self._check_data()

    def _load_sources(self) -> None:
        """Read the networks from the checkpoints in ``networks``, and check that they belong together."""
        trained = {stream: load_network(path) for stream, path in self.sources.items()}
        first = next(iter(trained.values()))
        for stream, source in trained.items():
            _check_source(stream, source, first)
        networks = {stream: source.network for stream, source in trained.items()}
        self._adopt(networks, {stream: source.config for stream, source in trained.items()}, first.classes)

    def _adopt(self, networks: dict[str, nn.Module], configs: dict[str, dict[str, Any]], classes: list[str]) -> None:
        """Take over frozen networks, and make the metrics that depend on their classes."""
        self.networks = nn.ModuleDict(networks)
        self.configs = configs
        self.classes = classes
        self.num_classes = num_classes_of(next(iter(networks.values())))
        self.val_metrics = ClassificationMetrics(self.num_classes)
        self.test_metrics = ClassificationMetrics(self.num_classes)
        self.val_accuracies = AccuracyPerExit(len(networks))
        self.test_accuracies = AccuracyPerExit(len(networks))

    def _check_data(self) -> None:
        """Check the DataModule against the networks, once both are there."""
        if self.networks and self._trainer is not None:
            datamodule = getattr(self.trainer, "datamodule", None)
            check_streams(datamodule, self.networks)
            if not self.trainer.predicting:
                check_classes(datamodule, self.num_classes, self.classes)

    def _fit(self) -> None:
        """Solve for the scales on all ranks alike."""
        _, logits, labels = self._gather()
        self.gathered = []
        logits = logits.transpose(0, 1)
        with torch.no_grad():
            self.scales.copy_(fit_scales(logits, labels, l1=self.l1, non_negative=self.non_negative))
        loss = F.cross_entropy(combine(logits, self.scales.detach()), labels)
        scales = zip(self.networks, self.scales.detach().clone(), strict=True)
        values = {"train/loss": loss} | {f"train/scale/{stream}": scale for stream, scale in scales}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _gather(self) -> tuple[Tensor, Tensor, Tensor]:
        """What all ranks gathered, each video once, by index: (N,), logits (N, K, C), labels (N,)."""
        mine = [torch.cat([part.to(self.device) for part in parts]) for parts in zip(*self.gathered, strict=True)]
        indices, logits, labels = (torch.cat(_of_all_ranks(tensor)) for tensor in mine)
        _, first = np.unique(indices.cpu().numpy(), return_index=True)
        return indices[first], logits[first], labels[first]

    def _evaluate(self, batch: ClipBatch, metrics: ClassificationMetrics, accuracies: AccuracyPerExit) -> Predictions:
        """Take in a batch, unless no video of it could be read; callbacks get the predictions."""
        logits = self.stream_logits(batch)
        fused = combine(logits, self.scales)
        if len(batch):
            check_labelled(batch)
            metrics.update(fused, batch.labels, F.cross_entropy(fused, batch.labels))
            accuracies.update(logits, batch.labels)
        return Predictions(batch.paths, fused, batch.seconds, batch.failures)

    def _log_metrics(self, split: str, metrics: ClassificationMetrics, accuracies: AccuracyPerExit) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{split}/{name}", value, prog_bar=name == "top1", sync_dist=True)
        for stream, value in zip(self.networks, accuracies.compute(), strict=True):
            self.log(f"{split}/top1/{stream}", value, sync_dist=True)
        metrics.reset()
        accuracies.reset()


def _check_source(stream: str, source: TrainedNetwork, first: TrainedNetwork) -> None:
    """Check one source against its place and against the first."""
    key = f"`model.init_args.networks.{stream}`"
    if source.stream != stream:
        raise ValueError(f"{key}: expected a network trained on stream {stream!r}, came one on {source.stream!r}")
    if source.multi_label:
        raise ValueError(f"{key}: expected a network for one label a video, came one trained with `multi_label: true`")
    expected, came = num_classes_of(first.network), num_classes_of(source.network)
    if came != expected:
        raise ValueError(f"{key}: expected {expected} classes, as the first network has, came {came}")
    if first.classes and source.classes:
        check_same_classes(first.classes, source.classes, of=key)


def _of_all_ranks(tensor: Tensor) -> list[Tensor]:
    """A tensor (N_r, ...) of every rank r."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return gather_all_tensors(tensor) if distributed else [tensor]
