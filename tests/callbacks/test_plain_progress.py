"""Lines of progress where there is no terminal."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.plain_progress import PlainProgress

TRAINER: Any = SimpleNamespace(
    current_epoch=1,
    max_epochs=3,
    num_training_batches=10,
    num_val_batches=[4],
    num_test_batches=[2, 3],
    progress_bar_metrics={"loss": 0.12345678, "val/top1": 0.5},
    loggers=[],
    is_global_zero=True,
)


def lines_of(capsys: pytest.CaptureFixture[str], interval: float) -> list[str]:
    progress, module = PlainProgress(interval), torch.nn.Module()
    progress.on_train_start(TRAINER, module)  # type: ignore[arg-type]
    progress.on_train_batch_end(TRAINER, module, None, None, 4)  # type: ignore[arg-type]
    progress.on_validation_batch_end(TRAINER, module, None, None, 1)  # type: ignore[arg-type]
    progress.on_train_epoch_end(TRAINER, module)  # type: ignore[arg-type]
    progress.on_test_batch_end(TRAINER, module, None, None, 2)  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


def test_a_line_an_epoch_when_epochs_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, 100) == ["epoch 2/3 done loss 0.1235 val/top1 0.5 (0 s)"]


def test_lines_within_an_epoch_when_it_is_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, 0) == [
        "epoch 2/3 batch 5/10 loss 0.1235 val/top1 0.5 (0 s)",
        "validation batch 2/4",
        "epoch 2/3 done loss 0.1235 val/top1 0.5 (0 s)",
        "test batch 3/5",
    ]


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress()
    progress.disable()
    progress.on_train_epoch_end(TRAINER, torch.nn.Module())  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
