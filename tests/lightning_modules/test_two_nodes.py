"""Two machines by torchrun, on the loopback: they compute what one process does, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from callbacks.csv_log import read_rows

BIN = Path(sys.executable).parent
SLOW = """
import time
from pathlib import Path
from lightning.pytorch import Callback

class Slow(Callback):
    \"\"\"Takes its time with steps, and says when the third begins.\"\"\"

    def __init__(self, marker: str):
        self.marker = Path(marker)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self.marker.touch()
        time.sleep(0.2)
"""


def start_nodes(*args: object, ranks: int = 1) -> list[subprocess.Popen]:
    """Start a command on two nodes of `ranks` processes each, as a README tells to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    many = ("--trainer.strategy", "ddp", "--trainer.num_nodes", 2, "--trainer.devices", ranks)
    launch = ("--nnodes", 2, "--nproc-per-node", ranks, "--master-addr", "127.0.0.1", "--master-port", port)
    commands = [
        [BIN / "torchrun", *launch, "--node-rank", node, "--no-python", BIN / "streamkd", *args, *many]
        for node in range(2)
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([str(part) for part in command], env=environment) for command in commands]


def run_nodes(*args: object, ranks: int = 1) -> None:
    assert [node.wait(180) for node in start_nodes(*args, ranks=ranks)] == [0, 0]


def last(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt")


@pytest.fixture
def comparable(tiny_config: Path) -> Path:
    """Without dropout and with BatchNorm in eval, so that equal global batches give equal steps."""
    config = yaml.safe_load(tiny_config.read_text())
    config["model"]["init_args"]["freeze_batch_norm"] = True
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


@pytest.mark.parametrize(
    ("ranks", "verbs"),
    [(1, ["fit"]), pytest.param(2, ["fit", "validate", "test"], marks=pytest.mark.slow)],
    ids=["two ranks", "four ranks"],
)
def test_two_nodes_compute_what_one_process_does(
    comparable: Path, tmp_path: Path, streamkd: Callable[..., int | None], ranks: int, verbs: list[str]
) -> None:
    """Six videos of validation and five of the test are shared unevenly by four ranks, and each counts once."""
    for verb in verbs:
        command = (verb, "--config", comparable, "--trainer.max_epochs", 1)
        run_nodes(*command, "--run_dir", tmp_path / "two", "--data.batch_size", 1, ranks=ranks)
        assert streamkd(*command, "--run_dir", tmp_path / "one", "--data.batch_size", 2 * ranks) == 0
    one, two = (last(tmp_path / name) for name in ("one", "two"))
    assert two["global_step"] == one["global_step"] == 10 // (2 * ranks)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=0, atol=1e-5)
    rows = [read_rows(tmp_path / name / "metrics.csv") for name in ("one", "two")]
    for ours, theirs in zip(rows[1], rows[0], strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, abs=1e-5)
    assert [row["val/num_videos"] for row in rows[1] if row["val/num_videos"]] == ["6.0"]
    for verb in verbs[1:]:
        ours, theirs = (json.loads((tmp_path / name / f"{verb}.json").read_text()) for name in ("two", "one"))
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-5)
        assert ours["num_videos"] == theirs["num_videos"]
    files = [{path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("one", "two")]
    assert files[1] == files[0]


def numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value}


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_two_nodes_stop_together_when_one_is_told_to(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: int
) -> None:
    """Shuffle, augmentation and dropout on, and loader workers, which torchrun's signal reaches too."""
    (tmp_path / "slow_steps.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    config = yaml.safe_load(tiny_config.read_text())
    config["data"]["init_args"] |= {"batch_size": 1, "num_workers": 1}
    arguments = {"marker": str(tmp_path / "marker")}
    config["trainer"]["callbacks"] = [{"class_path": "slow_steps.Slow", "init_args": arguments}]
    tiny_config.write_text(yaml.safe_dump(config | {"checkpoint_every_n_steps": 0}))
    run_nodes("fit", "--config", tiny_config, "--run_dir", tmp_path / "undisturbed")
    (tmp_path / "marker").unlink()
    nodes = start_nodes("fit", "--config", tiny_config)
    while not (tmp_path / "marker").exists():
        time.sleep(0.05)
        assert all(process.poll() is None for process in nodes)
    nodes[node].send_signal(signal.SIGTERM)
    assert all(process.wait(60) for process in nodes)
    assert 0 < last(tmp_path / "run")["global_step"] < 5  # within the first epoch, at whose end alone it would be saved
    run_nodes("fit", "--config", tiny_config)
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        ours, theirs = (last(tmp_path / name)[key] for name in ("run", "undisturbed"))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("run", "undisturbed")]
    assert texts[0] == texts[1]
