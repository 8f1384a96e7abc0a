"""Tests side by side: what the CSV and the picture say, and which runs are refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.analysis.published_trade_off import published_points
from lightning_modules.analysis.trade_off import MeasuredTradeOff, NetworkPoint, OperatingPoint
from lightning_modules.analysis.trade_off_plot import draw_trade_off, draw_trade_offs
from lightning_modules.trade_off_comparison import compare_trade_offs


def trade_off(*, num_segments: int = 3, seconds: float | None = 0.02, **changes: Any) -> MeasuredTradeOff:
    """Two exits of two networks, four thresholds."""
    table = [(0.0, 0.5, 20e9, (1.0, 0.0)), (0.5, 0.7, 25e9, (0.5, 0.5)), (0.9, 0.9, 30e9, (0.25, 0.75))]
    table.append((1.0, 0.91, 40e9, (0.0, 1.0)))
    points = [OperatingPoint(t, top1, num_segments * cost, seconds, exited) for t, top1, cost, exited in table]
    values: dict[str, Any] = {
        "exit_names": ["mv/final", "iframe/final"],
        "num_segments": num_segments,
        "num_views": 1,
        "num_videos": 50,
        "timed_videos": 0 if seconds is None else 8,
        "timed_batch": 4,
        "max_loss": 0.5,
        "chosen": 0.9,
        "validation": points[1:],
        "test": points,
        "networks": {"mv": NetworkPoint(0.5, 20e9, seconds)},
        "data_set": "UCF101",
    }
    return MeasuredTradeOff(**values | changes)


def make_run(folder: Path, **options: Any) -> Path:
    folder.mkdir()
    (folder / "trade_off.json").write_text(json.dumps(trade_off(**options).to_record()))
    return folder


def curves(figure: Any, panel: int) -> dict[str, list[tuple[float, float]]]:
    """The lines of a panel that have a name, as points."""
    lines = figure.axes[panel].get_lines()
    named = [line for line in lines if not line.get_label().startswith("_")]
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in named}


def test_segments_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [make_run(tmp_path / "wise-5", num_segments=5), make_run(tmp_path / "wise-1", num_segments=1)]
    compare_trade_offs(runs, tmp_path / "segments.png")
    assert (tmp_path / "segments.png").read_bytes().startswith(b"\x89PNG")
    assert "0.9*" in capsys.readouterr().out
    with open(tmp_path / "segments.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tests = [(row["run"], row["segments"], float(row["threshold"])) for row in rows if row["series"] == "test"]
    assert tests == [(run, n, t) for run, n in (("wise-5", "5"), ("wise-1", "1")) for t in (0, 0.5, 0.9, 1)]
    assert [row["exited/mv/final"] for row in rows if row["series"] == "validation"] == ["0.5", "0.25", "0.0"] * 2
    assert [row["multiply_adds"] for row in rows if row["series"] == "mv alone"] == ["20000000000.0"] * 2
    assert [float(row["top1"]) for row in rows if "2407.02713" in row["series"]] == [
        point.top1 for point in published_points("UCF101")
    ]


def test_curves_and_their_ends() -> None:
    tests = {f"{n} segments": trade_off(num_segments=n) for n in (2, 4)}
    figure = draw_trade_offs(tests, published_points("UCF101"))
    found = curves(figure, 0)
    assert found["2 segments"] == [pytest.approx(place) for place in [(40, 50), (50, 70), (60, 90), (80, 91)]]
    assert found["no exits"] == [pytest.approx(place) for place in [(80, 91), (160, 91)]]
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "G multiply-adds per video",
        "ms per video, decoding included",
    ]
    untimed = draw_trade_offs(tests | {"other": trade_off(seconds=None)})
    assert len(untimed.axes) == 1


@pytest.mark.parametrize("changes", [{}, {"seconds": None}, {"chosen": None, "validation": []}])
def test_one_test_with_areas_by_exit(changes: dict[str, Any]) -> None:
    figure = draw_trade_off(trade_off(**changes), published_points("UCF101"))
    figure.savefig("/dev/null", format="png")
    areas = figure.axes[-1]
    assert [text.get_text() for text in areas.get_legend().get_texts()] == ["iframe/final", "mv/final"]
    tops = areas.collections[0].get_paths()[0].vertices
    assert {50.0, 25.0} <= {float(height) for height in tops[:, 1].round(6)}
    assert len(figure.axes) == (2 if "seconds" in changes else 3)
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert {"mv alone", "no exits\n91.0 %", "published\n(PKD)"} <= set(labels)
    assert ("τ = 0.9\n90.0 % at 75 % of the cost" in labels) == ("chosen" not in changes)


def test_refusals(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", num_videos=49)
    output = tmp_path / "none.png"
    with pytest.raises(ValueError, match=r"same videos, came {'a': '50 videos of UCF101', 'b': '49"):
        compare_trade_offs([run, other], output)
    with pytest.raises(ValueError, match="of different names, in --runs"):
        compare_trade_offs([run, run], output)
    with pytest.raises(ValueError, match="--runs"):
        compare_trade_offs([], output)
    with pytest.raises(FileNotFoundError, match=r"trade_off.json is missing; test the run with callbacks.trade_off"):
        compare_trade_offs([tmp_path], output)
    assert not output.exists()
