"""A W&B run of a run directory: its id, its pictures and its checkpoint, and the login it needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from lightning_modules.cli import main
from lightning_modules.run_directory import RunDirectory
from lightning_modules.wandb_run import WandbRun, _wandb_id


def draw(path: Path) -> None:
    figure = plt.figure(figsize=(1, 1))
    figure.savefig(path)
    plt.close(figure)


@pytest.mark.parametrize("with_checkpoints", [True, False])
def test_pictures_and_the_best_checkpoint_of_this_verb_are_logged(
    fresh_wandb: pytest.MonkeyPatch,
    end_wandb: Callable[[], None],
    tmp_path: Path,
    read_wandb_log: Callable[[Path], list[Any]],
    with_checkpoints: bool,
) -> None:
    fresh_wandb.setenv("WANDB_MODE", "offline")
    run = RunDirectory(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    draw(run.path / "flatness.png")
    run.best.write_bytes(b"best")
    logger = WandbRun(run, {"seed_everything": 3}, with_checkpoints=with_checkpoints)
    logger.log_metrics({"val/top1": 0.25}, step=4)
    run.config.write_text("seed_everything: 3")
    run.last.write_bytes(b"last")
    draw(run.path / "trade_off.png")
    logger.finalize("success")
    logger.finalize("success")
    end_wandb()

    (log,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    records = read_wandb_log(log)
    items = [item for record in records for item in record.history.item]
    logged = [("/".join(item.nested_key), json.loads(item.value_json)) for item in items]
    assert ("val/top1", 0.25) in logged
    assert logged.count(("trade_off/count", 1)) == 1
    assert not [key for key, _ in logged if key.startswith("flatness")]  # drawn by an earlier verb
    (picture,) = log.parent.glob("files/media/images/trade_off_*.png")
    assert picture.read_bytes() == (run.path / "trade_off.png").read_bytes()
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    assert len(artifacts) == with_checkpoints
    for artifact in artifacts:
        assert artifact.name == f"model-{(run.path / 'wandb_id').read_text()}"
        assert "best" in artifact.aliases
        assert {entry.path for entry in artifact.manifest.contents} == {"best.ckpt", "config.yaml"}


def test_a_sweep_chooses_the_id_and_later_verbs_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    assert _wandb_id(RunDirectory(tmp_path)) == "chosen"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert _wandb_id(RunDirectory(tmp_path)) == "chosen"


def test_without_login_nothing_starts(
    fresh_wandb: pytest.MonkeyPatch, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(tiny_config), "--logger", "wandb"])
    assert exit_.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "wandb: " not in line.partition("error:")[0])
    assert line.startswith("error: logger: wandb: ")
    for remedy in ("WANDB_API_KEY", "`wandb login`", "WANDB_MODE=offline"):
        assert remedy in line
    assert not (tmp_path / "run").exists()
