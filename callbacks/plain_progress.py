"""Progress for logs and pipes, where a moving bar would be noise: a line now and then."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override


class PlainProgress(ProgressBar):
    """Prints a line at the end of each training epoch, and every `interval` seconds in between.

    Args:
        interval: seconds between lines within an epoch or an evaluation.
    """

    def __init__(self, interval: float = 20.0) -> None:
        super().__init__()
        self.interval = interval
        self._started = self._printed = time.monotonic()
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._printed = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._printed >= self.interval:
            self._print(trainer, pl_module, f"batch {batch_idx + 1}/{trainer.num_training_batches}")

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(trainer, pl_module, "done")

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated("validation", batch_idx, trainer.num_val_batches)

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated("test", batch_idx, trainer.num_test_batches)

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated("predict", batch_idx, trainer.num_predict_batches)

    def _evaluated(self, stage: str, batch_idx: int, num_batches: list[int | float]) -> None:
        if time.monotonic() - self._printed >= self.interval:
            self._write(f"{stage} batch {batch_idx + 1}/{sum(num_batches)}")

    def _print(self, trainer: pl.Trainer, pl_module: pl.LightningModule, where: str) -> None:
        metrics = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
        values = " ".join(f"{name} {_short(value)}" for name, value in metrics.items())
        seconds = time.monotonic() - self._started
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._write(" ".join(filter(None, [epoch, where, values, f"({seconds:.0f} s)"])))

    def _write(self, line: str) -> None:
        self._printed = time.monotonic()
        if self._enabled:
            print(line, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
