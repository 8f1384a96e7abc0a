"""predictions.jsonl: whole, ordered, with names and probabilities; failing files are listed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.prediction_writer import PredictionWriter, in_order, top_classes
from datamodules.failure import Failure

TRAINER: Any = SimpleNamespace(
    world_size=1, is_global_zero=True, datamodule=SimpleNamespace(classes=["run", "jump", "sit"])
)


def feed(writer: PredictionWriter, indices: list[int], logits: list[list[float]], failures: list[Failure]) -> None:
    paths = [f"v{index}.mp4" for index in indices]
    seconds = torch.full((len(indices),), 0.25, dtype=torch.float64)
    outputs = SimpleNamespace(paths=paths, logits=torch.tensor(logits).reshape(-1, 3), seconds=seconds)
    batch = SimpleNamespace(indices=torch.tensor(indices), failures=failures)
    writer.on_predict_batch_end(TRAINER, SimpleNamespace(), outputs, batch, 0)  # type: ignore[arg-type]


def test_lines_are_in_order_with_failures_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = PredictionWriter(tmp_path / "predictions.jsonl", top=2)
    writer.on_predict_start(TRAINER, None)  # type: ignore[arg-type]
    feed(writer, [2, 0], [[0.0, 2.0, 0.0], [1.0, 0.0, -1.0]], [Failure("bad.mp4", "no moov atom")])
    feed(writer, [1], [[0.0, 0.0, 9.0]], [])
    assert not writer.path.exists()
    writer.on_predict_end(TRAINER, None)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["v0.mp4", "v1.mp4", "v2.mp4", "bad.mp4"]
    assert [top["class"] for top in lines[0]["top"]] == ["run", "jump"]
    probability = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).softmax(0)[0].item()
    assert lines[0]["top"][0]["probability"] == pytest.approx(probability, abs=1e-6)
    assert lines[0]["seconds"] == 0.25
    assert lines[3] == {"path": "bad.mp4", "error": "no moov atom"}
    assert "no moov atom" in capsys.readouterr().out


def test_classes_without_names_are_numbered_and_multi_label_uses_the_sigmoid(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "p.jsonl", multi_label=True)
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=None)
    outputs = SimpleNamespace(paths=["a"], logits=torch.zeros(1, 3), seconds=torch.zeros(1))
    batch = SimpleNamespace(indices=torch.tensor([0]), failures=[])
    writer.on_predict_batch_end(trainer, SimpleNamespace(), outputs, batch, 0)  # type: ignore[arg-type]
    (record,) = writer._records
    assert sorted(top["class"] for top in record["top"]) == ["0", "1", "2"]
    assert {top["probability"] for top in record["top"]} == {0.5}


@pytest.mark.parametrize(("loss", "probability"), [("binary", 0.5), ("softmax", 1 / 3)])
def test_several_labels_are_told_as_they_were_learned(tmp_path: Path, loss: str, probability: float) -> None:
    writer = PredictionWriter(tmp_path / "p.jsonl")
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=None)
    outputs = SimpleNamespace(paths=["a"], logits=torch.zeros(1, 3), seconds=torch.zeros(1))
    batch = SimpleNamespace(indices=torch.tensor([0]), failures=[])
    module: Any = SimpleNamespace(multi_label=True, multi_label_loss=loss)
    writer.on_predict_batch_end(trainer, module, outputs, batch, 0)
    assert {top["probability"] for top in writer._records[0]["top"]} == {round(probability, 6)}


def test_top_is_cut_to_the_number_of_classes() -> None:
    (named,) = top_classes(torch.tensor([[0.1, 0.9]]), ["a", "b"], 5)
    assert [top["class"] for top in named] == ["b", "a"]


def test_an_index_that_two_ranks_saw_is_written_once() -> None:
    records = [{"index": 1, "path": "b"}, {"index": 0, "path": "a"}, {"index": 1, "path": "b"}]
    assert in_order(records) == [{"path": "a"}, {"path": "b"}]
