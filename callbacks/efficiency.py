"""What early exits saved in a test: `exits.json`, the same as CSV, and a table."""

import csv
import json
from dataclasses import fields
from math import isnan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.table import Table
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.clip import LazyClipBatch
from datamodules.whole_file import open_whole
from lightning_modules.analysis.efficiency import Departures, ExitEfficiency, efficiency_by_exit, exit_costs
from lightning_modules.console_table import print_table
from lightning_modules.lazy_inference import LazyPredictions
from lightning_modules.metrics import hard_labels


class Efficiency(pl.Callback):
    """Writes `exits.json` and `exits.csv` after a `test` of lazy clips (`data.init_args.lazy`); silent otherwise.

    By exit: videos that left there, their fraction, accuracy, multiply-adds, and seconds for decoding, cutting views,
    computing, and all. The module has its `EarlyExitNetworks` in `networks`, and its test step returns
    `LazyPredictions`. Runs on `on_test_start`, `on_test_batch_end` and `on_test_end`.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._departures: list[Departures] = []
        self._batch: LazyClipBatch | None = None

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._departures, self._batch = [], None

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
        if isinstance(outputs, LazyPredictions):
            self._batch = batch
            self._departures.append(_departures(outputs, batch))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parts = [part for parts in gather_objects(self._departures, trainer.world_size) for part in parts]
        if not trainer.is_global_zero or self._batch is None or not parts:
            return
        networks: Any = pl_module.networks
        costs = exit_costs(networks, self._batch.shapes, num_views=self._batch.num_views)
        rows = efficiency_by_exit(Departures.joined(parts), networks.exit_names, costs)
        write_efficiency(self.folder, rows)
        print_table(_table(rows))


def write_efficiency(folder: Path, rows: list[ExitEfficiency]) -> None:
    """Writes JSON (null where there is no value) and CSV, each whole.

    Args:
        folder: the run directory.
        rows: what to write.
    """
    with open_whole(folder / "exits.json") as file:
        json.dump([_record(row, missing=None) for row in rows], file, indent=1)
    with open_whole(folder / "exits.csv") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ExitEfficiency)])
        writer.writeheader()
        writer.writerows(_record(row, missing="") for row in rows)


def _record(row: ExitEfficiency, *, missing: str | None) -> dict[str, Any]:
    return {name: missing if isinstance(value, float) and isnan(value) else value for name, value in vars(row).items()}


def _departures(outputs: LazyPredictions, batch: LazyClipBatch) -> Departures:
    return Departures(
        outputs.places,
        outputs.logits.argmax(dim=1).cpu() == hard_labels(batch.labels).cpu(),
        outputs.decode_seconds,
        outputs.cut_seconds,
        outputs.compute_seconds,
    )


def _table(rows: list[ExitEfficiency]) -> Table:
    table = Table("exit", "videos", "fraction", "top-1", "M multiply-adds", "decode ms", "cut ms", "compute ms", "ms")
    for row in rows:
        seconds = (row.decode_seconds, row.cut_seconds, row.compute_seconds, row.wall_seconds)
        cells = [f"{row.multiply_adds / 1e6:.1f}", *(f"{1e3 * value:.2f}" for value in seconds)]
        means = [f"{row.top1:.3f}", *cells] if row.videos else []
        table.add_row(row.exit, str(row.videos), f"{row.fraction:.3f}", *means)
    return table
