"""Learned weights over the logits of early exits, and leaving at the first that is confident enough (WISE).

Soufleri, Ravikumar, Roy, "Advancing Compressed Video Action Recognition through Progressive Knowledge Distillation"
(arXiv 2407.02713), section 3. With networks that have no exit but their own it is plain score fusion, as of CoViAR
(Wu et al., CVPR 2018), which has fixed weights.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from datamodules.clip import ClipBatch, LazyClipBatch
from lightning_modules.agreement import check_labelled
from lightning_modules.analysis.exit_order import cheapest_first
from lightning_modules.analysis.trade_off import ExitCosts, choose_threshold, sweep
from lightning_modules.checkpoints import freeze
from lightning_modules.ensemble import (
    Connection,
    check_threshold,
    combine,
    connect,
    exit_at,
    fit_exit_scales,
    take,
)
from lightning_modules.exit_networks import ExitNetworks, attach_exits, load_exit_networks, output_logits
from lightning_modules.exit_networks_module import ExitNetworksModule
from lightning_modules.lazy_inference import lazy_infer
from lightning_modules.metrics import EarlyExitMetrics, hard_labels
from lightning_modules.networks.early_exit import EarlyExitNetworks
from lightning_modules.predictions import Predictions

# What a checkpoint holds beside the networks: the order of exits, logits gathered so far.
STATE = "weighted_inference"
CHEAPEST: Literal["cheapest"] = "cheapest"
CHOSEN: Literal["chosen"] = "chosen"


class WeightedInferenceModule(ExitNetworksModule):
    """Trained, frozen networks with exits in one order; the output of an exit is a weighted sum of the logits so far.

    ::

        batch.streams["mv"] ----> network --> mv/layer1 ------ * scale --> output 1: confident? leave
                                     |----->  mv/layer2 ---+-- * scales -> output 2: confident? leave
                                    ...                   ...
        batch.streams["iframe"] > network --> iframe/final +-- * scales -> output K: whatever is left

    ``fit`` is one epoch without gradients: it gathers the logits of all its videos and, with the last batch, solves for
    the scales of every exit. Give it videos the networks were not trained on, ``data.init_args.fit_split: val``; the
    paper takes the training videos, ``fit_split: train`` with ``augment: false``; the DataModule refuses ``test``.
    All ranks must make as many steps, as ever in Lightning; a video that comes twice for that, counts once. A
    checkpoint holds the networks too: ``test`` and ``predict`` from it read no other file, nor does a resumed fit.
    A fit chooses a threshold for every connection, too: the cheapest at which its videos lose at most ``max_loss``. The
    checkpoint keeps them. ``threshold`` and ``connection`` are for use: give others to ``test`` and ``predict`` as you
    like.

    All exits run, whatever the threshold, so that all can be compared. ``test`` and ``predict`` of lazy clips,
    ``data.init_args.lazy: true``, stop decoding and computing where a video leaves (see ``lazy_infer``); of exits,
    they log ``exited`` alone.

    Logs over ``val/`` and ``test/``, of the outputs that videos leave with: ``loss``, ``num_videos``, ``top1``,
    ``top5``; of every exit: ``top1/<exit>`` of its output, ``top1_alone/<exit>`` of its own logits, ``exited/<exit>``,
    the fraction of videos that leave there. After fitting, of the last exit, ``train/loss`` (cross-entropy) and
    ``train/scale/<exit>``, and ``train/threshold``, the chosen one.

    Args:
        networks: checkpoint of a ``RecognitionModule`` by stream, for score fusion; or
        exits: checkpoint of a ``ProgressiveDistillationModule``.
        order: of the exits: names of streams, each for all of its exits, or of exits, e.g. ``mv/layer1``. None: as the
            networks are listed; the paper has [mv, residual, iframe], its public code [residual, mv, iframe].
            ``cheapest``: next is what adds the fewest multiply-adds (see ``cheapest_first``).
        connection: ``scaled``, or an ablation without learned scales (see ``connect``).
        threshold: softmax probability above which a video leaves, 0 to 1. At 1 all leave at the last exit. ``chosen``:
            the fit's choice.
        max_loss: points (hundredths) of top-1, against no exits, that the choice may lose on the videos of the fit.
        l1: weight of the sum of an exit's absolute scales beside the cross-entropy.
        l1_from: the first exit, counted from 1, to which ``l1`` applies. The paper's are 0.1 and 6.
        non_negative: allow no scale below 0.

    Raises:
        ValueError: none or both of ``networks`` and ``exits``, or a value that is not allowed.
    """

    def __init__(
        self,
        networks: dict[str, str] | None = None,
        exits: str | None = None,
        *,
        order: list[str] | Literal["cheapest"] | None = None,
        connection: Connection = "scaled",
        threshold: float | Literal["chosen"] = 1.0,
        max_loss: float = 0.5,
        l1: float = 0.1,
        l1_from: int = 6,
        non_negative: bool = False,
    ) -> None:
        super().__init__(networks or {})
        if bool(networks) == bool(exits):
            raise ValueError(
                "expected checkpoints by stream in `model.init_args.networks`, or one checkpoint in "
                f"`model.init_args.exits`, came {networks} and {exits}"
            )
        if not l1 >= 0 or l1_from < 1:
            raise ValueError(
                f"expected `model.init_args.l1` >= 0 and `model.init_args.l1_from` >= 1, came {l1} and {l1_from}"
            )
        if not max_loss >= 0:
            raise ValueError(f"expected `model.init_args.max_loss` >= 0, came {max_loss}")
        connect(connection, torch.ones(1, 1))
        self.save_hyperparameters()
        self.exits = exits
        self.order = order
        self.connection = connection
        self.threshold = threshold if threshold == CHOSEN else check_threshold(threshold)
        self.max_loss = max_loss
        self.chosen: dict[str, float] = {}
        self.l1 = l1
        self.l1_from = l1_from
        self.non_negative = non_negative
        self.gathered: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def weights(self) -> Tensor:
        """By which the exits are combined: (K, K) float32, lower triangular."""
        return connect(self.connection, self.scales.detach())

    @property
    def first_stream(self) -> str | None:
        """The stream of the first exit, which every video needs; None as long as there are no networks."""
        return None if self.exit_networks is None else self.networks.exit_names[0].split("/")[0]

    @property
    def exit_threshold(self) -> float:
        """Above which a video leaves.

        Raises:
            ValueError: it is to be the one chosen, and none was.
        """
        if self.threshold != CHOSEN:
            return float(self.threshold)
        if not self.chosen and self._trainer is not None and self.trainer.state.fn == "fit":
            return 1.0  # nothing is chosen before the last batch
        if not self.chosen:
            raise ValueError(
                "`model.init_args.threshold: chosen`: expected a checkpoint whose fit chose one, came one without; fit "
                "anew, or give a number"
            )
        return self.chosen[self.connection]

    def forward(self, batch: ClipBatch) -> Tensor:
        """Classify the B videos of a batch: (B, num_classes) float32, what each leaves with."""
        return take(*self._combine(self.exit_logits(batch)))

    @torch.no_grad()
    def exit_logits(self, batch: ClipBatch) -> Tensor:
        """The logits of each exit alone, averaged over views: (K, B, num_classes) float32, in order."""
        exits = output_logits(self.networks, batch, self.device)[:, : len(self.networks.exit_names)]
        return exits.transpose(0, 1)

    @property
    @override
    def source_files(self) -> list[str]:
        return [self.exits] if self.exits else super().source_files

    @override
    def read_sources(self) -> ExitNetworks:
        if self.exits:
            return load_exit_networks(self.exits, key="`model.init_args.exits`")
        return attach_exits(self.sources, {})

    @override
    def load_sources(self) -> None:
        super().load_sources()
        self._put_in_order(None if self.order == CHEAPEST else self.order)

    @override
    def adopt(self, exit_networks: ExitNetworks) -> None:
        super().adopt(exit_networks)
        num_exits = len(self.networks.exit_names)
        # A parameter, since optimizers and DistributedDataParallel refuse modules without; its gradient is always 0.
        self.scales = nn.Parameter(torch.eye(num_exits, device=self.device))
        self.val_metrics = EarlyExitMetrics(num_exits, self.networks.num_classes)
        self.test_metrics = EarlyExitMetrics(num_exits, self.networks.num_classes)

    @override
    def train(self, mode: bool = True) -> "WeightedInferenceModule":
        super().train(mode)
        if self.exit_networks is not None:
            self.networks.eval()
        return self

    @override
    def on_train_start(self) -> None:
        freeze(self.networks)

    @override
    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        check_labelled(batch)
        if self.order == CHEAPEST and not self.gathered:
            self._put_cheapest_first(batch)
        # A substitute stands for a video that could not be read; it has its own turn anyway.
        kept = ~batch.substituted
        logits = self.exit_logits(batch).transpose(0, 1)
        self.gathered.append((batch.indices[kept], logits[kept], hard_labels(batch.labels)[kept]))
        if self.trainer.is_last_batch:
            self._fit()
        return 0 * self.scales.sum()

    @override
    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        return self._evaluate(batch, self.val_metrics)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    @override
    def test_step(self, batch: ClipBatch | LazyClipBatch, batch_idx: int) -> Predictions:  # type: ignore[override]
        if isinstance(batch, LazyClipBatch):
            return self._evaluate_lazily(batch, self.test_metrics)
        return self._evaluate(batch, self.test_metrics)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    @override
    def predict_step(self, batch: ClipBatch | LazyClipBatch, batch_idx: int) -> Predictions:
        if isinstance(batch, LazyClipBatch):
            return lazy_infer(self.networks, self.weights, self.exit_threshold, batch)
        return self._predictions(batch, *self._combine(self.exit_logits(batch)))

    @override
    def configure_optimizers(self) -> Optimizer:
        if self.exit_networks is None:
            self.load_sources()
        # Changes nothing, but counts: without steps of an optimizer, Lightning writes no checkpoint.
        return SGD([self.scales], lr=0.0)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        gathered = list(self._gather()) if self.gathered else []
        exit_names = list(self.networks.exit_names)
        checkpoint[STATE] = {
            "order": self.order,
            "exit_names": exit_names,
            "gathered": gathered,
            "chosen": self.chosen,
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[STATE]
        if state["order"] != self.order:
            raise ValueError(
                f"the checkpoint's scales are for `model.init_args.order: {state['order']}`, came {self.order}; "
                "correct it, or fit anew in another `run_dir`"
            )
        super().on_load_checkpoint(checkpoint)
        self._put_in_order(state["exit_names"])
        self.gathered = [tuple(state["gathered"])] if state["gathered"] else []
        self.chosen = dict(state.get("chosen", {}))

    def _put_in_order(self, order: list[str] | None) -> None:
        networks: Any = dict(self.networks.networks.items())
        self.networks = EarlyExitNetworks(networks, order=order)
        freeze(self.networks)

    def _put_cheapest_first(self, batch: ClipBatch) -> None:
        """Order the exits by what they cost on clips as large as those of ``batch``."""
        assert self.exit_networks is not None
        with torch.device("meta"):
            networks = ExitNetworks.from_state(self.exit_networks.state()).networks
        clips = networks.blank_clips({stream: clips.shape[1:] for stream, clips in batch.streams.items()})
        self._put_in_order(list(cheapest_first(networks, clips)))

    def _fit(self) -> None:
        """Solve for the scales on all ranks alike, on the CPU, since it takes many steps with few numbers."""
        _, logits, labels = self._gather()
        self.gathered = []
        logits = logits.transpose(0, 1)
        penalty: Any = {"l1": self.l1, "l1_from": self.l1_from, "non_negative": self.non_negative}
        with torch.no_grad():
            scales = fit_exit_scales(logits, labels, **penalty).to(self.scales.dtype)
            self.scales.copy_(scales)
        costs = ExitCosts(range(len(logits)))
        swept = {name: sweep(logits, labels, connect(name, scales), costs) for name in get_args(Connection)}
        self.chosen = {name: choose_threshold(points, self.max_loss) for name, points in swept.items()}
        named = zip(self.networks.exit_names, scales[-1].tolist(), strict=True)
        values = {f"train/scale/{name}": scale for name, scale in named}
        values["train/threshold"] = self.chosen[self.connection]
        values["train/loss"] = F.cross_entropy(combine(logits, scales[-1]), labels).item()
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _gather(self) -> tuple[Tensor, Tensor, Tensor]:
        """What all ranks gathered, each video once, by index, on the CPU: (N,), logits (N, K, C), labels (N,)."""
        mine = [torch.cat([part.to(self.device) for part in parts]) for parts in zip(*self.gathered, strict=True)]
        indices, logits, labels = (torch.cat(_of_all_ranks(tensor)).cpu() for tensor in mine)
        _, first = np.unique(indices.numpy(), return_index=True)
        return indices[first], logits[first], labels[first]

    def _combine(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of all exits (K, B, num_classes), and where each video leaves, (B,) int64."""
        outputs = combine(logits, self.weights)
        return outputs, exit_at(outputs, self.exit_threshold)

    def _evaluate(self, batch: ClipBatch, metrics: EarlyExitMetrics) -> Predictions:
        """Take in a batch, unless no video of it could be read; callbacks get the predictions."""
        logits = self.exit_logits(batch)
        outputs, exits = self._combine(logits)
        if len(batch):
            check_labelled(batch)
            metrics.update(logits, outputs, exits, batch.labels)
        return replace(self._predictions(batch, outputs, exits), exit_logits=logits)

    def _evaluate_lazily(self, batch: LazyClipBatch, metrics: EarlyExitMetrics) -> Predictions:
        """As ``_evaluate``, but nothing is known of exits behind those that videos left at."""
        check_labelled(batch)
        found = lazy_infer(self.networks, self.weights, self.exit_threshold, batch)
        metrics.update_taken(found.logits, found.places.to(found.logits.device), batch.labels)
        return found

    def _predictions(self, batch: ClipBatch, outputs: Tensor, exits: Tensor) -> Predictions:
        names = [self.networks.exit_names[place] for place in exits.tolist()]
        return Predictions(batch.paths, take(outputs, exits), batch.seconds, batch.failures, names)

    def _log_metrics(self, split: str, metrics: EarlyExitMetrics) -> None:
        for name, value in metrics.compute(self.networks.exit_names).items():
            self.log(f"{split}/{name}", value, prog_bar=name == "top1", sync_dist=True)
        metrics.reset()


def _of_all_ranks(tensor: Tensor) -> list[Tensor]:
    """A tensor (N_r, ...) of every rank r."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return gather_all_tensors(tensor) if distributed else [tensor]
