"""Results of `test` and `validate` as JSON: metrics, confusion, timings and the videos that could not be read."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.clip import ClipBatch, LazyClipBatch
from datamodules.whole_file import open_whole
from lightning_modules.analysis.hardware import hardware


@dataclass
class Tally:
    """What one rank counts.

    Args:
        confusion: (num_classes, num_classes) int64, [truth, prediction]; None before the first prediction.
        videos: number of videos tested.
        read_seconds: time the loaders spent reading them, in seconds.
        damaged: path and number of damaged frames of the videos for which earlier frames stood in.
        failures: path and reason of the videos left out.
        clips: (T, C, H, W) of a view, by stream.
        num_views: of a video.
    """

    confusion: Tensor | None = None
    videos: int = 0
    read_seconds: float = 0.0
    damaged: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    clips: dict[str, tuple[int, ...]] = field(default_factory=dict)
    num_views: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        counts = [tally.confusion for tally in (self, other) if tally.confusion is not None]
        return Tally(
            confusion=torch.stack(counts).sum(dim=0) if counts else None,
            videos=self.videos + other.videos,
            read_seconds=self.read_seconds + other.read_seconds,
            damaged=self.damaged + other.damaged,
            failures=self.failures + other.failures,
            clips=self.clips or other.clips,
            num_views=self.num_views or other.num_views,
        )


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """How often class i was taken for class j.

    Args:
        logits: (B, num_classes) float.
        labels: (B,) int64; videos with a label outside 0..num_classes-1 are not counted.

    Returns:
        (num_classes, num_classes) int64, [truth, prediction].
    """
    num_classes = logits.shape[1]
    known = (labels >= 0) & (labels < num_classes)
    pairs = labels[known] * num_classes + logits[known].argmax(dim=1)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class TestReport(pl.Callback):
    """Writes `test.json` after `test` and `validate.json` after `validate`; silent within fit.

    The confusion matrix needs test and validation steps that return an object with `logits` (B, num_classes);
    without it, and for multi-label data, it is null. Runs on the start, batch-end and end hooks of both verbs.

    Args:
        folder: the run directory.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._tally = Tally()
        self._started = self._seconds = 0.0

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tally, self._started = Tally(), time.perf_counter()

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
        if not isinstance(batch, ClipBatch | LazyClipBatch):
            return
        logits = getattr(outputs, "logits", None)
        counts = None
        if isinstance(logits, Tensor) and batch.labels.ndim == 1:
            counts = confusion_counts(logits.cpu(), batch.labels.cpu())
        corrupt = batch.corrupt_frames.tolist()
        self._tally += Tally(
            confusion=counts,
            videos=len(batch),
            read_seconds=float(batch.seconds.sum()),
            damaged=[{"path": path, "frames": n} for path, n in zip(batch.paths, corrupt, strict=True) if n],
            failures=[{"path": str(failure.path), "reason": str(failure.reason)} for failure in batch.failures],
            clips=_shapes(batch),
            num_views=batch.num_views,
        )

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Here, since other callbacks may work for long in `on_test_end`.
        self._seconds = time.perf_counter() - self._started

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tally = sum(gather_objects(self._tally, trainer.world_size), Tally())
        if trainer.is_global_zero:
            stage = "validate" if trainer.state.fn == "validate" else "test"
            with open_whole(self.folder / f"{stage}.json") as file:
                json.dump(self._report(trainer, tally), file, indent=1, ensure_ascii=False)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_test_start(trainer, pl_module)

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
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_epoch_end(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)

    def _report(self, trainer: pl.Trainer, tally: Tally) -> dict[str, Any]:
        videos = max(tally.videos, 1)
        return {
            "checkpoint": str(trainer.ckpt_path),
            "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            "num_videos": tally.videos,
            "clips": tally.clips,
            "num_views": tally.num_views,
            "seconds": round(self._seconds, 3),
            "seconds_per_video": round(self._seconds / videos, 6),
            "read_seconds_per_video": round(tally.read_seconds / videos, 6),
            "hardware": hardware(trainer.strategy.root_device, trainer.world_size),
            "classes": list(getattr(getattr(trainer, "datamodule", None), "classes", None) or []),
            "confusion": None if tally.confusion is None else tally.confusion.tolist(),
            "damaged": tally.damaged,
            "failures": tally.failures,
        }


def _shapes(batch: ClipBatch | LazyClipBatch) -> dict[str, tuple[int, ...]]:
    """(T, C, H, W) by stream."""
    if isinstance(batch, LazyClipBatch):
        return batch.shapes
    return {stream: tuple(clips.shape[1:]) for stream, clips in batch.streams.items()}
