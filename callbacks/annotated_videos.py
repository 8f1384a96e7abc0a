"""Predicted videos as MP4 with what was said of them drawn on every frame."""

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from callbacks.prediction_writer import Record, records_of
from datamodules.bitstream import UnreadableVideoError
from datamodules.failure import Failure
from datamodules.visualise.annotate import Line, annotate


class AnnotatedVideos(pl.Callback):
    """Writes every predicted video again with its top classes, their probabilities and the exit it left at.

    A video `a/b.avi` becomes `<folder>/a/b.avi.mp4`, one that is an MP4 keeps its name; each is written whole as soon
    as its batch is predicted. One that cannot be written, e.g. since a frame that no clip had is damaged, is named at
    the end; nothing else is lost.

    Runs on `on_predict_start`, `on_predict_batch_end` and `on_predict_end`, each rank for its own videos.

    Args:
        folder: where to write; None: `annotated` in the run directory.
        top: how many classes to name.
    """

    def __init__(self, folder: str | None = None, *, top: int = 3) -> None:
        if top < 1:
            raise ValueError(f"`top`: expected 1 class or more to name, came {top}")
        self.folder = folder
        self.top = top
        self._written: list[str] = []
        self._failures: list[Failure] = []

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written, self._failures = [], []
        self._folder(trainer).mkdir(parents=True, exist_ok=True)  # before any long work

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
        for record in records_of(trainer, pl_module, outputs, batch, top=self.top):
            self._annotate(record, target_of(self._folder(trainer), record["path"]))

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        written, failures = (
            list(chain(*gather_objects(found, trainer.world_size))) for found in (self._written, self._failures)
        )
        if not trainer.is_global_zero:
            return
        for failure in sorted({str(failure) for failure in failures}):
            print(f"not annotated: {failure}", file=sys.stderr, flush=True)
        print(f"{len(set(written))} annotated videos in {self._folder(trainer)}", flush=True)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.folder or Path(trainer.default_root_dir) / "annotated")

    def _annotate(self, record: Record, target: Path) -> None:
        try:
            annotate(record["path"], target, lines_of(record))
        except (UnreadableVideoError, OSError, ValueError) as error:
            self._failures.append(Failure(record["path"], str(error)))
        else:
            self._written.append(record["path"])


def target_of(folder: Path, path: str) -> Path:
    """Where a video is written: below the folder as it lies on disk, so that no two of them meet."""
    source = Path(path)
    if ".." in source.parts:
        source = source.resolve()
    name = source.name if source.suffix == ".mp4" else f"{source.name}.mp4"
    return folder.joinpath(*source.relative_to(source.anchor).parent.parts, name)


def lines_of(record: Record) -> list[Line]:
    """What is drawn: a line for each class, and one for the exit."""
    top = [Line(f"{one['probability']:.2f}  {one['class']}", one["probability"]) for one in record["top"]]
    return [*top, Line(f"left at {record['exit']}")] if "exit" in record else top
