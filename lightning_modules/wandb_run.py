"""The W&B run of a run directory: beside what is logged, the pictures that analyses draw, and checkpoints if asked."""

import os
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from datamodules.whole_file import open_whole
from lightning_modules.run_directory import RunDirectory, RunError

LOCAL_MODES = ("offline", "dryrun", "disabled")


class WandbRun(WandbLogger):
    """Writes under the run directory, and continues when the run is resumed, tested or validated.

    Metrics and configuration are Lightning's part. When a verb has finished, the pictures that it has drawn into the
    run directory are logged by their names: `trade_off.png` as `trade_off`.

    The project is that of WANDB_PROJECT; WANDB_MODE=offline keeps everything local.

    Args:
        directory: where.
        config: the run's configuration.
        with_checkpoints: make the best checkpoint of a finished fit, with `config.yaml`, the artifact `model-<id>`.
    """

    def __init__(self, directory: RunDirectory, config: dict[str, Any], *, with_checkpoints: bool = False) -> None:
        directory.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=directory.path.name,
            save_dir=directory.path,
            project=os.environ.get("WANDB_PROJECT", "streamkd"),
            id=_wandb_id(directory),
            resume="allow",
            config=config,
        )
        self.directory = directory
        self.with_checkpoints = with_checkpoints
        self._seen = self._files()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status != "success" or self._experiment is None:
            return
        files = self._files()
        written = [path for path, time in files.items() if time != self._seen.get(path)]
        self._seen = files
        for picture in (path for path in written if path.suffix == ".png"):
            self.log_image(picture.stem, [str(picture)])
        if self.with_checkpoints and self.directory.last in written:
            self._log_checkpoint()

    def _files(self) -> dict[Path, int]:
        """When pictures and `last.ckpt` were written, by their own clock, in ns."""
        paths = [*self.directory.path.glob("*.png"), self.directory.last]
        return {path: path.stat().st_mtime_ns for path in sorted(paths) if path.is_file()}

    def _log_checkpoint(self) -> None:
        import wandb

        checkpoint = self.directory.checkpoint(None)
        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model")
        for path in (checkpoint, self.directory.config):
            artifact.add_file(str(path))
        self.experiment.log_artifact(artifact, aliases=[checkpoint.stem])


@rank_zero_only
def check_login() -> None:
    """Log in to W&B, unless the run stays local; in a terminal, W&B may ask for a key.

    Raises:
        RunError: there is no key, or the server does not take it or does not answer.
    """
    import wandb

    if wandb.setup().settings.mode in LOCAL_MODES:
        return
    try:
        wandb.login(verify=True)
    except wandb.Error as error:
        raise RunError(
            f"logger: wandb: {error} WANDB_API_KEY or `wandb login` gives the key; WANDB_MODE=offline keeps the run "
            "local until `wandb sync`"
        ) from error


def _wandb_id(directory: RunDirectory) -> str | None:
    """One W&B run per run directory; a sweep's agent chooses it by WANDB_RUN_ID."""
    file, chosen = directory.path / "wandb_id", os.environ.get("WANDB_RUN_ID")
    if chosen or not file.is_file():
        _write_id(file, chosen or secrets.token_hex(4))
    return file.read_text() if file.is_file() else chosen


@rank_zero_only
def _write_id(file: Path, name: str) -> None:
    with open_whole(file) as handle:
        handle.write(name)
