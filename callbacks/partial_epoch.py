"""Training metrics of an epoch that a kill cut in two.

A checkpoint of Lightning holds neither the running sums of `self.log(..., on_epoch=True)` nor the state of
torchmetrics, so `train/top1` of a resumed epoch would count its second half only. And it is written a moment before
the row of its own step is logged, and before ReduceLROnPlateau hears of the epoch: a kill in between would lose both.
This callback carries all of it.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from callbacks.csv_log import CsvLog

State = dict[str, Any]


class PartialEpoch(pl.Callback):
    """Saves and restores running training metrics and the row about to be logged.

    Each rank has its own sums; they are gathered into the checkpoint, and restored if the number of ranks is the
    same. Runs on `on_save_checkpoint`, `on_load_checkpoint`, `on_train_start`, and after the first batch of a resumed
    epoch, when Lightning has made the sums anew. Uses private parts of Lightning, since there are no others: the
    epoch loop's `_results` and `_update_learning_rates`, and `trainer._logger_connector`.
    """

    KEY = "partial_epoch"

    def __init__(self) -> None:
        self._sums: dict[str, State] = {}
        self._epoch_metrics: dict[str, Tensor] = {}

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state: State = {"metrics": {}, "sums": {}}
        epoch_metrics: dict[str, Tensor] = {}
        if _epoch_is_over(trainer):
            epoch_metrics = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        else:
            state = {"metrics": _metric_states(pl_module), "sums": _running_sums(trainer)}
        row, ranks = _row_to_come(trainer), _gather(trainer, state)
        checkpoint[self.KEY] = {"row": row, "ranks": ranks, "epoch_metrics": epoch_metrics}

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit" or self.KEY not in checkpoint:
            return
        saved = checkpoint[self.KEY]
        self._epoch_metrics = saved["epoch_metrics"]
        _log_row(trainer, saved["row"])
        if len(saved["ranks"]) == trainer.world_size:
            state = saved["ranks"][trainer.global_rank]
            _restore_metrics(pl_module, state["metrics"])
            self._sums = state["sums"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._epoch_metrics:
            trainer._logger_connector._callback_metrics.update(self._epoch_metrics)
            trainer.fit_loop.epoch_loop._update_learning_rates("epoch", update_plateau_schedulers=True)
            self._epoch_metrics = {}

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._sums:
            _add_sums(trainer, self._sums)
            self._sums = {}

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Else Lightning keeps the resumed epoch's metric from ReduceLROnPlateau.
        trainer.fit_loop._restarting = False


def _epoch_is_over(trainer: pl.Trainer) -> bool:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return progress.processed == progress.ready


def _row_to_come(trainer: pl.Trainer) -> State | None:
    """What Lightning will log right after this checkpoint: at a logged step or an epoch's end."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    epoch_end = _epoch_is_over(trainer)
    if not epoch_end and not connector.should_update_logs:
        return None
    values = {name: value.item() for name, value in connector.metrics["log"].items()}
    step = loop._batches_that_stepped - epoch_end
    return {"step": step, "metrics": {**values, "epoch": trainer.current_epoch}} if values else None


def _log_row(trainer: pl.Trainer, row: State | None) -> None:
    for logger in trainer.loggers:
        if row is not None and isinstance(logger, CsvLog):
            logger.log_metrics(row["metrics"], row["step"])


def _metric_states(module: pl.LightningModule) -> dict[str, State]:
    """States of the torchmetrics in `module` that have seen data since their last reset."""
    return {
        name: {"count": metric._update_count, "states": dict(metric.metric_state)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric._update_count
    }


def _restore_metrics(module: pl.LightningModule, saved: dict[str, State]) -> None:
    metrics = {name: metric for name, metric in module.named_modules() if isinstance(metric, Metric)}
    for name, state in saved.items():
        metric = metrics[name]
        metric._update_count = state["count"]
        for key, value in state["states"].items():
            setattr(metric, key, value)
        metric.to(module.device)


def _running_sums(trainer: pl.Trainer) -> dict[str, State]:
    """State of every logged tensor that is reduced over the epoch, by Lightning's key `hook.name`."""
    return {
        key: dict(result.metric_state)
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _add_sums(trainer: pl.Trainer, saved: dict[str, State]) -> None:
    """Join sums of before the kill to those of the first batch after it; addition commutes, so bit for bit."""
    results = trainer.fit_loop.epoch_loop._results
    for key, state in saved.items():
        result = results.get(key)
        if result is None:
            continue
        for name, value in state.items():
            ours = getattr(result, name)
            setattr(result, name, _join(result.meta, value.to(ours.device), ours))
        result._computed = None


def _join(meta: Any, before: Tensor, after: Tensor) -> Tensor:
    if meta.is_max_reduction or meta.is_min_reduction:
        return (torch.maximum if meta.is_max_reduction else torch.minimum)(before, after)
    return before + after


def _gather(trainer: pl.Trainer, state: State) -> list[State]:
    """The states of all ranks, on the CPU."""
    state = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu().clone(), state)
    return gather_objects(state, trainer.world_size)
