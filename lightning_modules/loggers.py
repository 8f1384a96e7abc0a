"""Experiment trackers by one word of configuration: `logger: tensorboard` or `logger: wandb`."""

import os
import secrets
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.whole_file import open_whole
from lightning_modules.run_directory import RunDirectory, RunError

LoggerName = Literal["tensorboard", "wandb"]


def make_logger(name: LoggerName, run: RunDirectory, config: dict[str, Any]) -> Logger:
    """A logger that writes under the run directory and continues when the run is resumed.

    Args:
        name: which.
        run: where.
        config: the run's configuration, for trackers that show it.

    Raises:
        RunError: if its package is not installed.
    """
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    packages = {"tensorboard": "streamkd[tensorboard]", "wandb": "wandb"}
    try:
        return makers[name](run, config)
    except ModuleNotFoundError as error:
        raise RunError(f"logger: {name} needs a package: pip install '{packages[name]}' ({error})") from error


def _tensorboard(run: RunDirectory, config: dict[str, Any]) -> Logger:
    return TensorBoardLogger(run.path, name="", version="tensorboard", default_hp_metric=False)


def _wandb(run: RunDirectory, config: dict[str, Any]) -> Logger:
    """Project from WANDB_PROJECT; WANDB_MODE=offline keeps everything local."""
    project = os.environ.get("WANDB_PROJECT", "streamkd")
    run.path.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=run.path.name,
        save_dir=run.path,
        project=project,
        id=_wandb_id(run),
        resume="allow",
        config=config,
    )


def _wandb_id(run: RunDirectory) -> str | None:
    """One W&B run per run directory; a sweep's agent chooses its own by WANDB_RUN_ID."""
    if "WANDB_RUN_ID" in os.environ:
        return os.environ["WANDB_RUN_ID"]
    file = run.path / "wandb_id"
    if not file.is_file():
        _write_new_id(file)
    return file.read_text() if file.is_file() else None


@rank_zero_only
def _write_new_id(file: Path) -> None:
    with open_whole(file) as handle:
        handle.write(secrets.token_hex(4))
