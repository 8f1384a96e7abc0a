"""Resuming from RunCheckpoints equals an undisturbed fit, wherever it stopped and however the Trainer is set."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from callbacks.csv_log import CsvLog, read_rows
from callbacks.partial_epoch import PartialEpoch
from callbacks.run_checkpoints import RunCheckpoints
from callbacks.step_seeds import StepSeeds
from datamodules.epoch_sampler import EpochSampler
from datamodules.resumable_loader import ResumableDataLoader

Batch = tuple[Tensor, Tensor]


class Points(TensorDataset):
    """Sixteen labelled points, by the sampler's keys (epoch, index)."""

    def __init__(self) -> None:
        points = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        super().__init__(points, (points[:, 0] > 0).long())

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        return super().__getitem__(key[1])


class Classifier(pl.LightningModule):
    """Dropout, a torchmetric, and logged values reduced over the epoch by mean, sum, maximum and minimum."""

    def __init__(self, schedule: str) -> None:
        super().__init__()
        self.schedule = schedule
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.top1 = MulticlassAccuracy(2)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.layers(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.top1(logits, batch[1])
        self.log("train/top1", self.top1, on_step=False, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        for reduction in ("sum", "max", "min"):
            self.log(f"train/{reduction}", loss, on_step=False, on_epoch=True, reduce_fx=reduction)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/top1", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        schedules = torch.optim.lr_scheduler
        if self.schedule == "plateau":
            plateau = schedules.ReduceLROnPlateau(optimizer, mode="min", patience=0, threshold=10.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "train/loss"}}
        cosine = schedules.CosineAnnealingLR(optimizer, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": self.schedule}}


class Stop(pl.Callback):
    """Ends the fit by an error at event `at`: between any two of the hooks below, and around every save."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.events = 0

    def event(self, *args: Any) -> None:
        self.events += 1
        if self.events - 1 == self.at:
            raise InterruptedError

    on_train_batch_start = on_train_batch_end = on_validation_batch_end = on_train_epoch_end = event

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        save = trainer.save_checkpoint

        def save_checkpoint(*args: Any) -> None:
            self.event()
            save(*args)
            self.event()

        trainer.save_checkpoint = save_checkpoint  # type: ignore[method-assign]


def fit(folder: Path, *, stop_at: int = -1, resume: bool = False, every_n_steps: int = 1, **options: Any) -> Stop:
    """Fit in `folder`, from its last checkpoint if `resume` and there is one."""
    stop, module = Stop(stop_at), Classifier(options.pop("schedule", "epoch"))
    checkpoints = RunCheckpoints(folder, monitor=options.pop("monitor", "val/top1"), every_n_steps=every_n_steps)
    patience = options.pop("patience", None)
    early = [EarlyStopping("val/top1", mode="max", patience=patience)] if patience else []
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=CsvLog(folder),
        callbacks=[stop, *early, StepSeeds(7), PartialEpoch(), checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0, **options},
    )
    data = Points()
    train = ResumableDataLoader(data, batch_size=4, sampler=EpochSampler(16, shuffle=True))
    val = DataLoader(data, batch_size=8, sampler=EpochSampler(16, shuffle=False))
    last = str(checkpoints.last) if resume and checkpoints.last.exists() else None
    trainer.fit(module, train, val, ckpt_path=last)
    return stop


def left_in(folder: Path) -> dict[str, Any]:
    states = {path.stem: torch.load(path) for path in folder.glob("*.ckpt")}
    values = {f"{name} weights": state["state_dict"] for name, state in states.items()}
    return {**values, "optimizer": states["last"]["optimizer_states"], "metrics": (folder / "metrics.csv").read_text()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "every_n_steps": 2},
        {"val_check_interval": 0.5, "log_every_n_steps": 3},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in [
                {"every_n_steps": 3},
                {"every_n_steps": 0},
                {"accumulate_grad_batches": 2},
                {"accumulate_grad_batches": 3},
                {"val_check_interval": 0.5, "every_n_steps": 2},
                {"check_val_every_n_epoch": 2},
                {"check_val_every_n_epoch": None, "val_check_interval": 3},
                {"limit_val_batches": 0, "monitor": None},
                {"max_epochs": -1, "max_steps": 6},
                {"schedule": "step", "every_n_steps": 3},
                {"patience": 1, "max_epochs": 12, "every_n_steps": 3},
                {"schedule": "plateau", "every_n_steps": 3, "max_epochs": 4},
            ]
        ),
    ],
    ids=str,
)
def test_fit_stopped_at_every_event_and_resumed_equals_an_undisturbed_one(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    events = fit(tmp_path / "undisturbed", **options).events
    states = left_in(tmp_path / "undisturbed")
    metrics = states.pop("metrics")
    for stop_at in range(events):
        folder = tmp_path / str(stop_at)
        with pytest.raises(InterruptedError):
            fit(folder, stop_at=stop_at, **options)
        fit(folder, resume=True, **options)
        left = left_in(folder)
        assert left.pop("metrics") == metrics, stop_at
        torch.testing.assert_close(left, states, rtol=0, atol=0)


def test_best_checkpoint_has_the_best_score_and_last_the_last_weights(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=6, every_n_steps=0)
    rows = [row for row in read_rows(tmp_path / "metrics.csv") if row["val/top1"]]
    scores = [float(row["val/top1"]) for row in rows]
    best, last = (torch.load(tmp_path / f"{name}.ckpt") for name in ("best", "last"))
    assert best["epoch"] == scores.index(max(scores))  # the earliest of equals
    assert last["epoch"] == 5
    assert last["callbacks"]["RunCheckpoints"]["best_score"] == max(scores)


def test_a_metric_that_is_not_logged_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"monitor: val/mAP .* one of .*'val/top1'"):
        fit(tmp_path, monitor="val/mAP")


@pytest.mark.parametrize(("mode", "better", "worse"), [("max", 2.0, 0.5), ("min", 0.5, 2.0)])
def test_better_depends_on_mode_and_nan_is_never_better(mode: Any, better: float, worse: float) -> None:
    checkpoints = RunCheckpoints("unused", mode=mode)
    assert not checkpoints._is_better(float("nan"))
    checkpoints.best_score = 1.0
    assert checkpoints._is_better(better)
    assert not checkpoints._is_better(worse)
    assert not checkpoints._is_better(1.0)
    assert not checkpoints._is_better(float("nan"))


def test_negative_interval_is_refused_with_its_key() -> None:
    with pytest.raises(ValueError, match="checkpoint_every_n_steps"):
        RunCheckpoints("unused", every_n_steps=-1)
