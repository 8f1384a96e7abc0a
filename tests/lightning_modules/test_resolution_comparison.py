"""Runs at several resolutions and strides: their lines, costs against those of the networks, and refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.analysis.cost import cost_of
from lightning_modules.cli import main
from lightning_modules.networks import resnet10

NETWORKS = "lightning_modules.networks"


def make_run(
    folder: Path,
    size: int,
    score: float,
    *,
    strides: list[int] | None = None,
    degraded: int | None = None,
    num_videos: int = 50,
    epochs: int = 4,
    **test: Any,
) -> Path:
    folder.mkdir()
    init_args = {"num_classes": 3, "in_channels": 3, "width": 4, "strides": strides, "weights": "no/such/file"}
    network: dict[str, Any] = {
        "class_path": f"{NETWORKS}.resnet10",
        "init_args": {name: value for name, value in init_args.items() if value is not None},
    }
    if degraded:
        network = {"class_path": f"{NETWORKS}.DegradedInput", "init_args": {"network": network, "size": degraded}}
    model = {
        "class_path": "lightning_modules.recognition.RecognitionModule",
        "init_args": {"network": network, "stream": "rgb"},
    }
    data = {"init_args": {"annotations": {"class_path": "datamodules.annotations.MiniKinetics"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    (folder / "fit.json").write_text(json.dumps({"epochs": epochs, "seconds": 1.0}))
    clips = {"clips": {"rgb": [2, 3, size, size]}, "num_views": 3}
    record = {"metrics": {"test/top1": score}, "num_videos": num_videos, **clips} | test
    (folder / "test.json").write_text(json.dumps(record))
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def call(*runs: Path, output: Path, options: tuple[str, ...] = ()) -> None:
    main(["resolutions", "--runs", f"[{', '.join(map(str, runs))}]", "--output", str(output), *options])


def test_lines_by_strides_and_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "sweep.png"
    runs = [
        make_run(tmp_path / "h16", 16, 0.5),
        make_run(tmp_path / "h32", 32, 0.7),
        make_run(tmp_path / "s16", 16, 0.6, strides=[1, 1, 2, 2]),
        make_run(tmp_path / "up16", 32, 0.65, degraded=16),
    ]
    call(*runs, output=output, options=("--timed_batch", "1"))
    assert output.read_bytes().startswith(b"\x89PNG")
    rows = {row["run"]: row for row in rows_of(output.with_suffix(".csv")) if row["run"]}
    assert {name: row["series"] for name, row in rows.items()} == {
        "h16": "resnet10 native",
        "h32": "resnet10 native",
        "s16": "resnet10 strides 1,1,2,2 native",
        "up16": "resnet10 upsampled",
    }
    assert {name: (row["size"], row["input_size"]) for name, row in rows.items()} == {
        "h16": ("16", "16"),
        "h32": ("32", "32"),
        "s16": ("16", "16"),
        "up16": ("16", "32"),
    }
    for name, strides, size in (("h16", (1, 2, 2, 2), 16), ("s16", (1, 1, 2, 2), 16), ("up16", (1, 2, 2, 2), 32)):
        network, clip = resnet10(3, width=4, strides=strides), torch.zeros(1, 2, 3, size, size)
        assert float(rows[name]["multiply_adds"]) == 3 * cost_of(network, clip).total
        assert float(rows[name]["paper"]) == 3 * cost_of(network, clip, convention="paper").total
        assert float(rows[name]["videos_per_second"]) > 0
    published = [row["series"] for row in rows_of(output.with_suffix(".csv")) if not row["run"]]
    assert [series.split(",")[0] for series in published] == ["FrameExit", "ResKD"]
    printed = capsys.readouterr().out
    assert "throughput: 1 videos of 3 views at a time" in printed
    assert f"4 runs in {output}" in printed.replace("\n", "")


def test_seeds_share_a_line_and_budgets_do_not(tmp_path: Path) -> None:
    seeds = [make_run(tmp_path / f"seed{seed}", 16, 0.5 + 0.1 * seed) for seed in range(2)]
    options = ("--columns", "[run, series, score]", "--convention", "multiply_adds")
    call(*seeds, output=tmp_path / "a.png", options=options)
    rows = rows_of(tmp_path / "a.csv")[:2]
    assert rows == [
        {"run": "seed0", "series": "resnet10", "score": "0.5"},
        {"run": "seed1", "series": "resnet10", "score": "0.6"},
    ]
    call(*seeds, make_run(tmp_path / "longer", 16, 0.8, epochs=8), output=tmp_path / "b.png", options=options)
    assert {row["series"] for row in rows_of(tmp_path / "b.csv") if row["run"]} == {
        "resnet10 epochs 4",
        "resnet10 epochs 8",
    }


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, output = make_run(tmp_path / "one", 16, 0.5), tmp_path / "none.png"
    older = make_run(tmp_path / "older", 16, 0.5, clips={})
    unfinished = make_run(tmp_path / "unfinished", 16, 0.5)
    (unfinished / "fit.json").unlink()
    for runs, message in {
        (): "of different names, in --runs",
        (one, one): "of different names, in --runs",
        (one, make_run(tmp_path / "other", 16, 0.5, num_videos=49)): "same videos and metric, came {'one': 'top1 on 50",
        (older,): "in `clips`, came {}; run `lightning test` again",
        (unfinished,): "fit.json is missing; run `lightning fit`",
    }.items():
        with pytest.raises(SystemExit):
            call(*runs, output=output)
        assert message in capsys.readouterr().err
    assert not output.exists()
