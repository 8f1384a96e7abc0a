"""How flat the minimum is that a run has found: `flatness.json`, its slices as CSV, and pictures."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from callbacks.spread_videos import read_spread
from datamodules.clip import ClipBatch
from datamodules.whole_file import open_whole
from lightning_modules.agreement import check_labelled
from lightning_modules.analysis.flatness import WHY_EQUAL, FlatnessMeasurement, MeasuredFlatness
from lightning_modules.analysis.flatness_plot import draw_flatness
from lightning_modules.analysis.loss_surface import LossSurface
from lightning_modules.analysis.target import AnalysisTarget, OffersAnalysisTargets


class Flatness(pl.Callback):
    """Measures what the module names in ``analysis_targets()`` on samples of the validation split.

    Writes into the run directory ``flatness.json`` (Hessian trace with its error bar, top eigenvalue, slices),
    ``flatness_lines.csv``, ``flatness_planes.csv`` and ``flatness.png``. Compare only networks of equal architecture:
    the trace sums over parameters, and trace and eigenvalues depend on how a network is parametrised; in the picture
    such networks share a row. ``streamkd flatness`` puts runs side by side.

    Runs on `setup`, and on `on_test_end` or `on_train_end`, on rank zero while the others wait. The samples are spread
    evenly over the split, without augmentation, so the same in every run.

    Args:
        when: "test": after `test`, of the checkpoint that is tested; "fit": after the last step of `fit`.
        num_samples: videos; all of the split where it has fewer. Each view of one counts.
        batch_size: of the measurement, which needs more memory than a training step. Results do not depend on it.
        hold: parameters not to vary, by the beginning of their names: what a network has before its architecture is
            that of another, e.g. ``[input_bn, conv1]`` of streams with different channels.
        measurement: what to spend on each network.
    """

    def __init__(
        self,
        *,
        when: Literal["fit", "test"] = "test",
        num_samples: int = 24,
        batch_size: int = 12,
        hold: Sequence[str] = (),
        measurement: FlatnessMeasurement | None = None,
    ) -> None:
        if min(num_samples, batch_size) < 1:
            raise ValueError(f"expected `num_samples` and `batch_size` >= 1, came {num_samples} and {batch_size}")
        self.when = when
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.hold = tuple(hold)
        self.measurement = measurement or FlatnessMeasurement()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "analysis_targets"):
            raise ValueError(
                f"Flatness measures modules with a method `analysis_targets`, {type(pl_module).__name__} has "
                "none; take it out of `trainer.callbacks`"
            )

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.when == "test":
            self._measure(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.when == "fit":
            self._measure(trainer, pl_module)

    # Lightning evaluates in inference mode, whose tensors no gradient passes through; compiled code has no second one.
    @torch.compiler.set_stance("force_eager")
    @torch.inference_mode(False)
    @torch.no_grad()
    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            targets = cast(OffersAnalysisTargets, pl_module).analysis_targets()
            batches = read_spread(
                trainer, "val", self.num_samples, batch_size=self.batch_size, reader=type(self).__name__
            )
            for batch in batches:
                check_labelled(batch, multi_label=bool(getattr(pl_module, "multi_label", False)))
            measured = {
                name: self.measurement(self._surface(target, batches), partial(_say, trainer, name))
                for name, target in targets.items()
            }
            write_flatness(Path(trainer.default_root_dir), measured)
        trainer.strategy.barrier("flatness")

    def _surface(self, target: AnalysisTarget, batches: list[ClipBatch]) -> LossSurface:
        clips = [_labelled_clips(batch, target.stream) for batch in batches]
        chosen = target.parameters
        every = [name for name, _ in target.model.named_parameters()] if chosen is None else chosen
        names = [name for name in every if not name.startswith(self.hold)]
        return LossSurface(target.model, clips, parameters=names, loss=target.loss)


def write_flatness(folder: Path, measured: dict[str, MeasuredFlatness]) -> None:
    """Write JSON, CSV and picture, each whole.

    Args:
        folder: the run directory.
        measured: by the target's name.
    """
    record = {"note": WHY_EQUAL, "targets": {name: flatness.to_record() for name, flatness in measured.items()}}
    with open_whole(folder / "flatness.json") as file:
        json.dump(record, file, ensure_ascii=False)
    _write_csv(folder / "flatness_lines.csv", ["target", "direction", "step", "loss"], _line_rows(measured))
    _write_csv(folder / "flatness_planes.csv", ["target", "x", "y", "loss"], _plane_rows(measured))
    with open_whole(folder / "flatness.png", "wb") as file:
        draw_flatness(measured).savefig(file, format="png", dpi=150)


def _labelled_clips(batch: ClipBatch, stream: str) -> tuple[Tensor, Tensor]:
    return batch.streams[stream], batch.labels.repeat_interleave(batch.num_views, dim=0)


def _say(trainer: pl.Trainer, name: str, message: str) -> None:
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(f"flatness of {name}: {message}")


def _line_rows(measured: dict[str, MeasuredFlatness]) -> Iterator[tuple[object, ...]]:
    for name, flatness in measured.items():
        for direction, losses in enumerate(flatness.lines.losses):
            for step, loss in zip(flatness.lines.steps, losses, strict=True):
                yield name, direction, step, loss


def _plane_rows(measured: dict[str, MeasuredFlatness]) -> Iterator[tuple[object, ...]]:
    for name, flatness in measured.items():
        for y, losses in zip(flatness.plane.steps, flatness.plane.losses, strict=True):
            for x, loss in zip(flatness.plane.steps, losses, strict=True):
                yield name, x, y, loss


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
    with open_whole(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
