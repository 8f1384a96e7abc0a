"""Experiment trackers by one word of configuration: `logger: tensorboard`, `wandb` or `wandb+checkpoints`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_modules.run_directory import RunDirectory, RunError
from lightning_modules.wandb_run import WandbRun, check_login

LoggerName = Literal["tensorboard", "wandb", "wandb+checkpoints"]
PACKAGES = {"tensorboard": "streamkd[tensorboard]"}


def make_logger(name: LoggerName, run: RunDirectory, config: dict[str, Any]) -> Logger:
    """A logger that writes under the run directory and continues when the run is resumed.

    Args:
        name: which.
        run: where.
        config: the run's configuration, for trackers that show it.

    Raises:
        RunError: if its package is not installed.
    """
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(run.path, name="", version="tensorboard", default_hp_metric=False),
        "wandb": lambda: WandbRun(run, config),
        "wandb+checkpoints": lambda: WandbRun(run, config, with_checkpoints=True),
    }
    with _missing_packages_explained(name):
        return makers[name]()


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Find out before any work whether loggers can log.

    Raises:
        RunError: a package is not installed, or W&B knows no key.
    """
    for name in names:
        if name.startswith("wandb"):
            with _missing_packages_explained(name):
                check_login()


@contextmanager
def _missing_packages_explained(name: LoggerName) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        package = PACKAGES.get(name, "wandb")
        raise RunError(f"logger: {name} needs a package: pip install '{package}' ({error})") from error
