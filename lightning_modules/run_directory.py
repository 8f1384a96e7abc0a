"""One directory per experiment: where its files lie, and whether a configuration may continue it.

run_dir/
  config.yaml                   the configuration of fit, whole; `--config` takes it again
  metrics.csv                   a row per logged step
  fit.json                      written when fit has finished
  checkpoints/last.ckpt         to resume from
  checkpoints/best.ckpt         best by `monitor`
  test.json, validate.json      results of `test` and `validate`
  predictions.jsonl             results of `predict`
  annotated/                    of the callback `AnnotatedVideos`
  flatness.json, .png, ...      of the callback `Flatness`
  trade_off.json, .csv, .png    of the callback `TradeOff`
  resolution_sweep.json, ...    of the callback `ResolutionSweep`
  receptive_field.json, ...     of the callback `VisualExplanations`, and attention.json, ...
  exits.json, exits.csv         of a lazy `test`
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Keys that may differ between the processes of one run: they change its speed, its looks or its length, not what a
# step computes. Another number of devices is another global batch; it is allowed since machines come and go.
FREE_KEYS = {"run_dir", "overwrite", "logger", "checkpoint_every_n_steps", "config", "ckpt_path", "weights_only"}
FREE_KEYS |= {"trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.plugins"}
FREE_KEYS |= {"trainer.max_epochs", "trainer.max_time", "trainer.logger", "trainer.log_every_n_steps"}
FREE_KEYS |= {"trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"}
FREE_KEYS |= {"trainer.num_sanity_val_steps", "trainer.profiler", "trainer.detect_anomaly", "trainer.barebones"}
FREE_KEYS |= {"data.init_args.flow.cache", "data.init_args.flow.missing"}
FREE_LEAVES = {"num_workers", "pin_memory", "eval_batch_size", "index_cache", "predict_paths", "lazy"}


class RunError(ValueError):
    """A run directory cannot serve the command that was given; the message names the remedy."""


class RunFinished(Exception):
    """There is nothing left to do; the message says so."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. Nothing is created until something is written."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def fit_report(self) -> Path:
        return self.path / "fit.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.jsonl"

    def report(self, stage: str) -> Path:
        """Where `test` or `validate` writes its results."""
        return self.path / f"{stage}.json"

    def clear(self) -> None:
        """Delete what runs have written here, the folder of annotated videos whole, and nothing else."""
        names = "config.yaml metrics.csv fit.json test.json validate.json predictions.jsonl wandb_id"
        names += " flatness.json flatness.png flatness_lines.csv flatness_planes.csv"
        names += " trade_off.json trade_off.csv trade_off.png exits.json exits.csv"
        names += " resolution_sweep.json resolution_sweep.csv resolution_sweep.png"
        names += " receptive_field.json receptive_field.npz receptive_field.png"
        names += " attention.json attention.npz attention.png"
        for file in [self.last, self.best, *(self.path / name for name in names.split())]:
            file.unlink(missing_ok=True)
        annotated = self.path / "annotated"
        if annotated.is_dir():
            shutil.rmtree(annotated)

    def checkpoint(self, which: str | None) -> Path:
        """The checkpoint to validate, test or predict with.

        Args:
            which: "best", "last", a path, or None for the best and otherwise the last.

        Raises:
            RunError: if it does not exist.
        """
        choices = {None: [self.best, self.last], "best": [self.best], "last": [self.last]}
        candidates = choices.get(which) or [Path(str(which))]
        for path in candidates:
            if path.is_file():
                return path
        raise RunError(
            f"no checkpoint {' or '.join(map(str, candidates))}; run fit with --run_dir {self.path} first, "
            "or give --ckpt_path"
        )

    def is_finished(self, max_epochs: int | None) -> bool:
        """Whether fit has finished here; more `max_epochs` than it was given then reopen it."""
        if not (self.fit_report.is_file() and self.last.is_file()):
            return False
        done = json.loads(self.fit_report.read_text())
        return max_epochs is None or max_epochs == done["max_epochs"] or 0 <= max_epochs <= done["epochs"]

    def check_same(self, config: dict[str, Any]) -> None:
        """Make sure that the run to be continued is the one `config` describes.

        Raises:
            RunError: listing the keys that differ.
        """
        if not self.config.is_file():
            return
        changes = differences(yaml.safe_load(self.config.read_text()), config)
        if changes:
            raise RunError(
                f"run_dir {self.path} holds another experiment: {'; '.join(changes)}. "
                "Choose another --run_dir, or start it anew with --overwrite true"
            )


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Keys that change a run's result and differ, each as "key: saved -> current"."""
    before, now = dict(_flatten(saved)), dict(_flatten(current))
    return [
        f"{key}: {before.get(key, '(none)')} -> {now.get(key, '(none)')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]


def _is_free(key: str) -> bool:
    parts = key.split(".")
    prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return bool(prefixes & FREE_KEYS or FREE_LEAVES.intersection(parts))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": [1]}} -> ("a.b.0", 1)."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from _flatten(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
