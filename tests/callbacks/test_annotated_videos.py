"""Predictions drawn on their videos, by the command line: which files there are, and what is said of bad ones."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch

from callbacks import annotated_videos
from callbacks.annotated_videos import AnnotatedVideos, lines_of, target_of
from datamodules.failure import Failure
from datamodules.visualise.annotate import Line

CALLBACK = "callbacks.annotated_videos.AnnotatedVideos"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("clip.mp4", "out/clip.mp4"),
        ("a/clip.avi", "out/a/clip.avi.mp4"),
        ("./a/../clip.mov", f"out{Path.cwd()}/clip.mov.mp4"),
        ("/data/a/clip.mp4", "out/data/a/clip.mp4"),
    ],
)
def test_videos_lie_below_the_folder_as_they_lie_on_disk(path: str, target: str) -> None:
    assert target_of(Path("out"), path) == Path(target)


def test_lines_are_classes_and_the_exit() -> None:
    record = {"top": [{"class": "run", "probability": 0.8125}, {"class": "sit", "probability": 0.1}]}
    classes = [Line("0.81  run", 0.8125), Line("0.10  sit", 0.1)]
    assert lines_of(record) == classes
    assert lines_of(record | {"exit": "mv/layer2"}) == [*classes, Line("left at mv/layer2")]


def test_one_that_cannot_be_written_is_named_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: dict[str, Any] = {}

    def annotate(source: str, target: Path, lines: list[Line]) -> None:
        if source == "b.mp4":
            raise ValueError("b.mp4: broken behind what was seen of it")
        drawn[source] = target, lines

    monkeypatch.setattr(annotated_videos, "annotate", annotate)
    callback = AnnotatedVideos(str(tmp_path / "out"), top=1)
    datamodule = SimpleNamespace(classes=["run", "sit"])
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=datamodule)
    module: Any = SimpleNamespace()
    paths = ["a.mp4", "b.mp4", "c.mp4"]
    logits = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    outputs = SimpleNamespace(paths=paths, logits=logits, seconds=torch.zeros(3), exits=["mv/final"] * 3)
    batch = SimpleNamespace(indices=torch.arange(3), failures=[Failure("d.mp4", "no video")])
    callback.on_predict_start(trainer, module)
    callback.on_predict_batch_end(trainer, module, outputs, batch, 0)
    callback.on_predict_end(trainer, module)
    assert [*drawn] == ["a.mp4", "c.mp4"]
    target, (line, exit) = drawn["a.mp4"]
    assert target == tmp_path / "out/a.mp4"
    assert line.text == "0.73  sit"
    assert line.share == pytest.approx(torch.tensor([0.0, 1.0]).double().softmax(0)[1].item(), abs=1e-6)
    assert exit == Line("left at mv/final")
    said = capsys.readouterr()
    assert said.err == "not annotated: b.mp4: broken behind what was seen of it\n"
    assert said.out == f"2 annotated videos in {tmp_path / 'out'}\n"


def test_predict_writes_them_beside_its_list(
    tiny_config: Path, tiny_videos: Path, streamkd: Callable[..., int | None]
) -> None:
    assert streamkd("fit", "--config", tiny_config, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1) == 0
    bad = tiny_config.parent / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    paths = f"[{tiny_videos / 'test' / 'right'}, {bad}]"
    options = ("--data.predict_paths", paths, f"--trainer.callbacks+={CALLBACK}", "--trainer.callbacks.top", 1)
    assert streamkd("predict", "--config", tiny_config, *options) == 0
    run = tiny_config.parent / "run"
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert ["error" in record for record in records] == [False, False, True]
    written = sorted(path for path in (run / "annotated").rglob("*") if path.is_file())
    assert written == [target_of(run / "annotated", record["path"]) for record in records[:2]]
    with av.open(str(written[0])) as container:
        assert container.streams.video[0].frames == 9


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="`top`: expected 1 class or more to name, came 0"):
        AnnotatedVideos(top=0)
