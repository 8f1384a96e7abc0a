"""Predictions as JSON lines for programs and as a table for people."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.table import Table
from torch import Tensor
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.whole_file import open_whole
from lightning_modules.console_table import print_table

Record = dict[str, Any]


class PredictionWriter(pl.Callback):
    """Writes one JSON line per video: path, top classes with probabilities, seconds; or path and error.

    The line of a video that left a network at one of its exits names that exit.

    The file is written whole at the end, by rank zero, in the order of the data set; videos that could not be read
    come last. Runs on `on_predict_start`, `on_predict_batch_end` and `on_predict_end`.

    Args:
        path: the file, `predictions.jsonl` of the run directory.
        top: how many classes to name.
        multi_label: probabilities by sigmoid, each class by itself, instead of softmax; without it, as the module was
            trained.
        table_rows: how many videos the table shows at most.
    """

    def __init__(self, path: Path | str, *, top: int = 5, multi_label: bool = False, table_rows: int = 40) -> None:
        self.path = Path(path)
        self.top = top
        self.multi_label = multi_label
        self.table_rows = table_rows
        self._records: list[Record] = []

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._records = []

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
        self._records += records_of(trainer, pl_module, outputs, batch, top=self.top, multi_label=self.multi_label)
        self._records += [{"index": None, "path": str(f.path), "error": str(f.reason)} for f in batch.failures]

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        records = in_order(list(chain(*gather_objects(self._records, trainer.world_size))))
        if not trainer.is_global_zero:
            return
        with open_whole(self.path) as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        print_table(_table(records[: self.table_rows]), width=160)
        print(f"{len(records)} predictions in {self.path}", flush=True)


def records_of(
    trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *, top: int, multi_label: bool = False
) -> list[Record]:
    """What is said of the B videos of a batch that could be read.

    Args:
        trainer: its DataModule has the names of the classes.
        pl_module: what predicted.
        outputs: its predictions.
        batch: the videos.
        top: how many classes to name.
        multi_label: see `PredictionWriter`.

    Returns:
        Of each video its index in the data set, path, top classes with probabilities, seconds, and the exit it left at
        where there are exits.
    """
    logits = outputs.logits.float().cpu()
    by_itself = multi_label or _classes_are_apart(pl_module)
    probabilities = logits.sigmoid() if by_itself else logits.softmax(dim=1)
    classes = _class_names(trainer, probabilities.shape[1])
    exits = [{"exit": name} for name in getattr(outputs, "exits", ())] or [{}] * len(probabilities)
    likeliest = top_classes(probabilities, classes, top)
    rows = zip(batch.indices.tolist(), outputs.paths, likeliest, outputs.seconds.tolist(), exits, strict=True)
    return [
        {"index": index, "path": str(path), "top": named, "seconds": round(seconds, 4), **exit}
        for index, path, named, seconds, exit in rows
    ]


def top_classes(probabilities: Tensor, classes: list[str], top: int) -> list[list[Record]]:
    """The `top` likeliest classes of each of B videos, likeliest first; probabilities: (B, num_classes) float."""
    values, indices = probabilities.topk(min(top, len(classes)))
    return [
        [{"class": classes[index], "probability": round(value, 6)} for value, index in zip(*of_video, strict=True)]
        for of_video in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def in_order(records: list[Record]) -> list[Record]:
    """By index, each index once (samplers of several ranks may repeat one); failures last, by path."""
    predicted = {record["index"]: record for record in records if record["index"] is not None}
    failed = {record["path"]: record for record in records if record["index"] is None}
    ordered = [predicted[key] for key in sorted(predicted)] + [failed[key] for key in sorted(failed)]
    return [{key: value for key, value in record.items() if key != "index"} for record in ordered]


def _class_names(trainer: pl.Trainer, num_classes: int) -> list[str]:
    """The datamodule's names; numbers when it has none, or not as many as the network has outputs."""
    classes = list(getattr(getattr(trainer, "datamodule", None), "classes", None) or [])
    return classes if len(classes) == num_classes else [str(index) for index in range(num_classes)]


def _classes_are_apart(pl_module: pl.LightningModule) -> bool:
    """Whether it learned several labels class by class, and not under one softmax."""
    return bool(getattr(pl_module, "multi_label", False)) and getattr(pl_module, "multi_label_loss", "") != "softmax"


def _table(records: list[Record]) -> Table:
    table = Table("video", "prediction", "probability", "then", "seconds")
    for record in records:
        if "error" in record:
            table.add_row(record["path"], f"[red]{record['error']}[/red]")
            continue
        first, *others = record["top"]
        then = ", ".join(f"{other['class']} {other['probability']:.2f}" for other in others[:2])
        table.add_row(record["path"], first["class"], f"{first['probability']:.3f}", then, f"{record['seconds']:.3f}")
    return table
