"""What a finished fit came to: `fit.json`, whose presence also says that the run is finished."""

import json
from pathlib import Path

import lightning.pytorch as pl
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from callbacks.run_checkpoints import RunCheckpoints
from datamodules.whole_file import open_whole
from lightning_modules.analysis.hardware import hardware


class FitReport(pl.Callback):
    """Writes limits, epochs, steps, seconds, last metrics and the videos that could not be read, whole or in part.

    Of a run that was resumed, seconds are those of all its processes, hardware is that of the last. Runs on
    `on_fit_end`, so not after an error.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        failures = gather_objects(_failures(trainer), trainer.world_size)
        damaged = gather_objects(set(getattr(trainer.datamodule, "damaged", [])), trainer.world_size)  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        report = {
            "max_epochs": trainer.max_epochs,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            **_best(trainer),
            "hardware": hardware(trainer.strategy.root_device, trainer.world_size),
            "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            "damaged": sorted(set().union(*damaged)),
            "failures": [{"path": path, "reason": reason} for path, reason in sorted(set().union(*failures))],
        }
        with open_whole(self.path) as file:
            json.dump(report, file, indent=2)


def _failures(trainer: pl.Trainer) -> set[tuple[str, str]]:
    """Path and reason of the videos that this rank met and could not read."""
    found = getattr(trainer.datamodule, "failures", [])  # type: ignore[attr-defined]
    return {(failure.path, failure.reason) for failure in found}


def _best(trainer: pl.Trainer) -> dict[str, object]:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoints):
            return {
                "seconds": round(callback.seconds, 3),
                "monitor": callback.monitor,
                "best_score": callback.best_score,
            }
    return {}
