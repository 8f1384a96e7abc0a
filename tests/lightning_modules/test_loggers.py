"""TensorBoard and W&B by one word; a missing package is explained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules import loggers
from lightning_modules.run_directory import RunDirectory, RunError

FIT = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--logger")


def test_tensorboard_writes_beside_metrics_csv(
    tiny_config: Path, tmp_path: Path, streamkd: Callable[..., int | None]
) -> None:
    assert streamkd("fit", "--config", tiny_config, *FIT, "tensorboard") == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert (tmp_path / "run" / "metrics.csv").is_file()


@pytest.mark.slow
def test_wandb_works_offline_and_keeps_its_id(
    tiny_config: Path, tmp_path: Path, streamkd: Callable[..., int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streamkd("fit", "--config", tiny_config, *FIT, "[wandb, tensorboard]") == 0
    run = tmp_path / "run"
    identity = (run / "wandb_id").read_text()
    assert streamkd("fit", "--config", tiny_config, *FIT, "wandb", "--trainer.max_epochs", 2) == 0
    assert (run / "wandb_id").read_text() == identity
    assert len(list((run / "wandb").glob(f"offline-run-*-{identity}"))) == 2


def test_a_sweep_chooses_the_wandb_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    assert loggers._wandb_id(RunDirectory(tmp_path)) == "chosen"
    assert not (tmp_path / "wandb_id").exists()


def test_missing_package_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(RunError, match=r"pip install 'streamkd\[tensorboard\]'"):
        loggers.make_logger("tensorboard", RunDirectory(tmp_path), {})
