"""Runs side by side, and which are refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.analysis.flatness import FlatnessMeasurement
from lightning_modules.analysis.loss_surface import LossSurface
from lightning_modules.flatness_comparison import compare_flatness

CHEAP = FlatnessMeasurement(num_probes=2, max_products=2, num_directions=1, line_points=3, plane_points=3)


def make_run(folder: Path, **hidden: int) -> Path:
    folder.mkdir()
    records = {}
    for name, width in hidden.items():
        surface = LossSurface(nn.Linear(4, width), [(torch.randn(6, 4), torch.arange(6) % 3)])
        records[name] = CHEAP(surface).to_record()
    (folder / "flatness.json").write_text(json.dumps({"targets": records}))
    return folder


def test_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [make_run(tmp_path / "before", mv=3, iframe=5), make_run(tmp_path / "after", mv=3)]
    compare_flatness(runs, tmp_path / "both.png", targets=["mv"])
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert "2 networks" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"before: mv and before: iframe are different architectures: weight is \(3, 4\)"
    ):
        compare_flatness(runs, tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"has \['mv'\], --targets wants \['iframe'\]"):
        compare_flatness(runs, tmp_path / "none.png", targets=["iframe"])
    with pytest.raises(FileNotFoundError, match=r"flatness.json is missing; test the run with callbacks.flatness"):
        compare_flatness([tmp_path], tmp_path / "none.png")
    with pytest.raises(ValueError, match="--runs"):
        compare_flatness([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
