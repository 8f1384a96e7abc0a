"""Runs side by side, and which are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.analysis.attention_plot import SeenVideos
from lightning_modules.analysis.receptive_field import FieldArea, area_above
from lightning_modules.analysis.receptive_field_plot import MeasuredField
from lightning_modules.cli import main


def make_run(folder: Path, *, size: int = 16, threshold: float = 0.1, video: str = "a.mp4", frames: int = 2) -> Path:
    random = np.random.default_rng(size)
    fields, seen = {}, {}
    for name in ("rgb", "teacher/rgb"):
        values = random.random((size, size))
        pixels, fraction = area_above(torch.from_numpy(values), threshold)
        area = FieldArea("rgb", "layer4", (size, size), threshold, pixels, fraction, 3, 8)
        fields[name] = MeasuredField(values, area)
        pictures = random.integers(0, 255, (1, frames, size, size, 3), dtype=np.uint8)
        seen[name] = SeenVideos(pictures, random.random((1, frames, 2, 2)).astype(np.float32))
    folder.mkdir()
    arrays = {f"{name}/{kind}": array for name, videos in seen.items() for kind, array in vars(videos).items()}
    record = {"videos": [{"path": video, "class": "x"}], "targets": {name: {} for name in seen}}
    (folder / "receptive_field.json").write_text(json.dumps({name: f.area.to_record() for name, f in fields.items()}))
    np.savez(folder / "receptive_field.npz", **{name: field.values for name, field in fields.items()})
    (folder / "attention.json").write_text(json.dumps(record))
    np.savez(folder / "attention.npz", **arrays)
    return folder


@pytest.mark.parametrize(("command", "networks"), [("receptive-field", 2), ("attention", 2)])
def test_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture, command: str, networks: int) -> None:
    runs = [make_run(tmp_path / "before"), make_run(tmp_path / "after", size=24)]
    output = tmp_path / "both.png"
    listed = f"[{', '.join(map(str, runs))}]"
    capsys.readouterr()
    main([command, "--runs", listed, "--output", str(output), "--targets", "[rgb]"])
    assert output.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"{networks} networks in" in printed
    if command == "receptive-field":
        assert "24 x 24" in printed
        assert "teacher" not in printed


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("receptive-field", {"threshold": 0.2}, "areas above one `threshold`"),
        ("attention", {"video": "b.mp4"}, "expected the same videos"),
        ("attention", {"frames": 1}, "set `shown_frames`"),
        ("attention", None, "attention.json is missing; test the run with callbacks.visual_explanations"),
        ("receptive-field", {}, "has networks ['rgb', 'teacher/rgb'], --targets wants ['mv']"),
    ],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture, command: str, changes: dict[str, Any] | None, message: str
) -> None:
    other = tmp_path / "other" if changes is None else make_run(tmp_path / "other", **changes)
    runs = f"[{make_run(tmp_path / 'one')}, {other}]"
    targets = ["--targets", "[mv]"] if "targets" in message else []
    with pytest.raises(SystemExit):
        main([command, "--runs", runs, "--output", str(tmp_path / "none.png"), *targets])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_no_or_equal_names_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for runs in ("[]", f"[{tmp_path}/a/x, {tmp_path}/b/x]"):
        with pytest.raises(SystemExit):
            main(["receptive-field", "--runs", runs, "--output", str(tmp_path / "none.png")])
        assert "of different names, in --runs" in capsys.readouterr().err
