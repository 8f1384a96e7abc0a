"""test.json: counts against sklearn-like closed forms, and what cannot be read."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from callbacks.test_report import Tally, TestReport, confusion_counts
from datamodules.clip import ClipBatch
from datamodules.failure import Failure


def test_confusion_counts_truth_by_prediction() -> None:
    logits = torch.eye(3)[[0, 1, 1, 2, 0]]
    labels = torch.tensor([0, 1, 2, 2, -1])
    assert confusion_counts(logits, labels).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_tallies_add_up_even_where_a_rank_saw_nothing() -> None:
    counts, damaged, failures = torch.ones(2, 2).long(), [{"path": "c", "frames": 3}], [{"path": "a", "reason": "b"}]
    one = Tally(counts, 4, 1.5, damaged, failures, {"mv": (1, 2, 4, 4)}, 3)
    total = one + Tally() + one
    assert total.confusion is not None
    assert total.confusion.tolist() == [[2, 2], [2, 2]]
    assert (Tally() + one).clips == total.clips == one.clips
    assert (Tally() + one).num_views == total.num_views == 3
    assert (total.videos, total.read_seconds, len(total.damaged), len(total.failures)) == (8, 3.0, 2, 2)


def test_report_of_a_test_run(tmp_path: Path) -> None:
    batch = ClipBatch(
        streams={"mv": torch.zeros(2, 1, 2, 4, 4)},
        labels=torch.tensor([0, 1]),
        indices=torch.tensor([0, 1]),
        paths=["a", "b"],
        seconds=torch.tensor([0.5, 1.5], dtype=torch.float64),
        corrupt_frames=torch.zeros(2, dtype=torch.int64),
        substituted=torch.zeros(2, dtype=torch.bool),
        failures=[Failure("c", "torn")],
    )
    trainer: Any = SimpleNamespace(
        world_size=1,
        is_global_zero=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        state=SimpleNamespace(fn="test"),
        ckpt_path="best.ckpt",
        callback_metrics={"test/top1": torch.tensor(0.5)},
        datamodule=SimpleNamespace(classes=["x", "y"]),
    )
    report, module = TestReport(tmp_path), SimpleNamespace()
    report.on_test_start(trainer, module)  # type: ignore[arg-type]
    outputs = SimpleNamespace(logits=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    report.on_test_batch_end(trainer, module, outputs, batch, 0)  # type: ignore[arg-type]
    report.on_test_end(trainer, module)  # type: ignore[arg-type]
    written = json.loads((tmp_path / "test.json").read_text())
    assert written["metrics"] == {"test/top1": 0.5}
    assert written["confusion"] == [[1, 0], [1, 0]]
    assert written["num_videos"] == 2
    assert f"{torch.get_num_threads()} threads, {os.cpu_count()} CPUs" in written["hardware"]["devices"]
    assert f"PyTorch {torch.__version__}" in written["hardware"]["versions"]
    assert written["read_seconds_per_video"] == 1.0
    assert written["failures"] == [{"path": "c", "reason": "torn"}]
    assert written["classes"] == ["x", "y"]
    assert written["checkpoint"] == "best.ckpt"
    assert (written["clips"], written["num_views"]) == ({"mv": [1, 2, 4, 4]}, 1)
