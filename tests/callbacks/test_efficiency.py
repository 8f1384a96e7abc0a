"""exits.json and exits.csv of two batches on one rank; nothing of a test that is not lazy."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.efficiency import Efficiency
from datamodules.clip import LazyClip, LazyClipBatch
from datamodules.failure import Failure
from lightning_modules.analysis.efficiency import exit_costs
from lightning_modules.lazy_inference import lazy_infer
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10

SHAPES = {"mv": (1, 2, 24, 24)}
TRAINER: Any = SimpleNamespace(world_size=1, is_global_zero=True)


class Source:
    decode_seconds, cut_seconds, corrupt_frames = 2.0, 0.5, 0

    def read(self, stream: str) -> Tensor | Failure:
        return torch.zeros(1, *SHAPES[stream], dtype=torch.uint8)

    def close(self) -> None:
        pass


def lazy_batch(labels: list[int]) -> LazyClipBatch:
    clips = [LazyClip(Source(), torch.tensor(label), label, f"{label}.mp4") for label in labels]
    return LazyClipBatch(clips, SHAPES, lambda _, frames: frames.float())


@pytest.fixture
def module() -> Any:
    networks = EarlyExitNetworks({"mv": EarlyExitNetwork(resnet10(3, 2, width=4))}).eval()
    return SimpleNamespace(networks=networks)


def test_what_a_lazy_test_writes(tmp_path: Path, module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Efficiency(tmp_path)
    callback.on_test_start(TRAINER, module)
    classes = []
    for labels in ([0, 1], [], [2]):
        batch = lazy_batch(labels)
        outputs = lazy_infer(module.networks, torch.eye(4), 1.0, batch)
        classes += outputs.logits.argmax(dim=1).tolist()
        callback.on_test_batch_end(TRAINER, module, outputs, batch, 0)
    callback.on_test_end(TRAINER, module)
    rows = json.loads((tmp_path / "exits.json").read_text())
    assert [row["exit"] for row in rows] == [*module.networks.exit_names, "all"]
    assert [row["fraction"] for row in rows] == [0, 0, 0, 1, 1]
    assert rows[0]["top1"] is None
    last = rows[-1]
    assert last["top1"] == pytest.approx(sum(c == label for label, c in enumerate(classes)) / 3)
    assert last["multiply_adds"] == exit_costs(module.networks, SHAPES)[-1]
    assert (last["decode_seconds"], last["cut_seconds"]) == (2.0, 0.5)
    assert last["wall_seconds"] == pytest.approx(2.5 + last["compute_seconds"])
    with open(tmp_path / "exits.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["top1"] for row in table[:3]] == ["", "", ""]
    assert float(table[-1]["wall_seconds"]) == last["wall_seconds"]
    assert "mv/final" in capsys.readouterr().out


def test_other_tests_leave_nothing(tmp_path: Path, module: Any) -> None:
    callback = Efficiency(tmp_path)
    callback.on_test_start(TRAINER, module)
    callback.on_test_batch_end(TRAINER, module, SimpleNamespace(logits=torch.zeros(1, 3)), None, 0)
    callback.on_test_end(TRAINER, module)
    assert not list(tmp_path.iterdir())
