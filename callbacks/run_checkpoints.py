"""`last.ckpt` to resume from and `best.ckpt` to use: two files of fixed names.

Why not ModelCheckpoint: saved after the last batch of an epoch, its checkpoint resumes behind the validation that
was to follow, which is then lost; and its names, versions and directory checks do not suit a resumed run.
"""

import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override


class RunCheckpoints(Checkpoint):
    """Saves `last.ckpt` every `every_n_steps` optimizer steps and at each epoch's end, `best.ckpt` on a better score.

    No checkpoint is written between the last batch before a validation and that validation's end: a resumed run
    validates again rather than not at all. Runs on `on_train_batch_end`, `on_validation_end`, `on_train_epoch_end`.

    Args:
        folder: where the two files go.
        monitor: the logged metric that `best.ckpt` has the best value of; None keeps the last epoch.
        mode: whether more or less is better.
        every_n_steps: optimizer steps between saves within an epoch; 0 saves at the ends of epochs only.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        monitor: str | None = "val/top1",
        mode: Literal["max", "min"] = "max",
        every_n_steps: int = 0,
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"checkpoint_every_n_steps must be 0 (off) or more, got {every_n_steps}")
        self.last = Path(folder) / "last.ckpt"
        self.best = Path(folder) / "best.ckpt"
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.stopped = False
        self.seconds_before = 0.0
        self._started = time.perf_counter()
        self._step = 0
        self._validated = False

    @property
    def seconds(self) -> float:
        """Time spent in fit until now, over all the processes that contributed to the run."""
        return self.seconds_before + time.perf_counter() - self._started

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "stopped": self.stopped, "seconds": self.seconds}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        self.stopped = state_dict["stopped"]
        self.seconds_before = state_dict["seconds"]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # With max_steps, Lightning would take a checkpoint of an epoch's end for one of its middle.
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.stopped

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step_before, self._step = self._step, trainer.global_step
        n = self.every_n_steps
        if n and self._step // n > step_before // n:
            self.save_within_epoch(trainer, batch_idx)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_if_best(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stopped = trainer.should_stop  # an early stop that Lightning forgets
        self._save_if_best(trainer)
        self._save(trainer, self.last)

    def save_within_epoch(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Save `last.ckpt` after batch `batch_idx`, unless a validation or the epoch's end follows; whether it did."""
        continues = _loop_continues(trainer, batch_idx)
        if continues:
            self._save(trainer, self.last)
        return continues

    def _save_if_best(self, trainer: pl.Trainer) -> None:
        score = self._score(trainer)
        if self.monitor is None or (score is not None and self._is_better(score)):
            self.best_score = score
            self._save(trainer, self.best)

    def _score(self, trainer: pl.Trainer) -> float | None:
        """The monitored value of now; None when this epoch has none.

        Raises:
            MisconfigurationException: if validation ran, and did not log it.
        """
        if self.monitor is None:
            return None
        value = trainer.callback_metrics.get(self.monitor)
        if value is None and self._validated:
            raise MisconfigurationException(
                f"monitor: {self.monitor} is not logged; choose one of {sorted(trainer.callback_metrics)}, or null"
            )
        return None if value is None else float(value)

    def _is_better(self, score: float) -> bool:
        """NaN is never better."""
        if self.best_score is None:
            return score == score
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)


def _loop_continues(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether training goes on after batch `batch_idx`, with no validation or end of the epoch in between."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch or batch_idx + 1 >= trainer.num_training_batches:
        return False
    if trainer.should_stop or trainer.global_step == trainer.max_steps:
        return False
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or every == float("inf"):
        return True
    batches = progress.total.ready if trainer.check_val_every_n_epoch is None else batch_idx + 1
    return batches % every != 0
