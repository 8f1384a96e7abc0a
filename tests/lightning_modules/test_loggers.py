"""TensorBoard and W&B by one word; a missing package is explained."""

import os
import subprocess
import sys
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
def test_wandb_works_offline_and_keeps_its_id(tiny_config: Path, tmp_path: Path) -> None:
    def fit(*options: object) -> None:
        command = [Path(sys.executable).with_name("streamkd"), "fit", "--config", tiny_config, *FIT, *options]
        environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        subprocess.run([*map(str, command)], env=environment, check=True, timeout=300)

    fit("[wandb, tensorboard]")
    run = tmp_path / "run"
    identity = (run / "wandb_id").read_text()
    fit("wandb", "--trainer.max_epochs", 2)
    assert (run / "wandb_id").read_text() == identity
    assert len(list((run / "wandb").glob(f"offline-run-*-{identity}"))) == 2


def test_missing_package_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(RunError, match=r"pip install 'streamkd\[tensorboard\]'"):
        loggers.make_logger("tensorboard", RunDirectory(tmp_path), {})
