"""`streamkd prepare`, by its command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datamodules.index_cache import IndexCache, file_stamp
from datamodules.index_record import decode_index
from lightning_modules.cli import main


@pytest.fixture
def prepare_config(tiny_config: Path, tmp_path: Path) -> Path:
    """The tiny experiment on videos of another size: all 21 have to be re-encoded."""
    config = yaml.safe_load(tiny_config.read_text())
    caches = {"index_cache": str(tmp_path / "index"), "reencode_dir": str(tmp_path / "small")}
    config["data"]["init_args"] |= caches | {"reencode_size": [32, 24]}
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)


def prepare(config: Path, *options: object) -> None:
    main(["prepare", "--config", str(config), "--num_workers", "0", *map(str, options)])


def test_machines_share_the_videos(
    prepare_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    prepare(prepare_config, "--shard", "0/3")
    assert "shard 0/3: 7 of 21 videos" in capsys.readouterr().out
    first = set(small.glob("*.mp4"))
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    prepare(prepare_config)
    assert "shard 2/3: 7 of 21 videos" in capsys.readouterr().out
    assert len(first) == 7
    assert len(set(small.glob("*.mp4"))) == 14
    prepare(prepare_config, "--shard", "0/1")
    assert "0 videos are read as they are, 7 re-encoded now, 14 before, 0 failed" in capsys.readouterr().out
    reports = {path.name: json.loads(path.read_text()) for path in small.glob("*.json")}
    counts = {name: (report["made"], report["kept"]) for name, report in reports.items()}
    assert counts == {"prepare_0_of_3.json": (7, 0), "prepare_2_of_3.json": (7, 0), "prepare_0_of_1.json": (7, 14)}


def test_splits_that_are_named_alone(prepare_config: Path, tmp_path: Path) -> None:
    prepare(prepare_config, "--splits", "[val]")
    assert {path.name.split("_")[0] for path in tmp_path.glob("small/*.mp4")} == {"val"}


def test_what_is_read_as_it_is_stays_so(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report stands beside the indices then."""
    prepare(tiny_config, "--data.index_cache", tmp_path / "index")
    assert f"{tmp_path}/index/prepare_0_of_1.json: 21 videos are read as they are, 0 re" in capsys.readouterr().out
    assert len(list(tmp_path.glob("index/*/*.index"))) == 21


@pytest.mark.parametrize(("allowed", "status"), [("", 1), ("1", 1), ("2", 0), ("0.9", 1), ("1.0", 0)])
def test_failures_are_reported_and_counted(
    prepare_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: str, status: int
) -> None:
    root = tmp_path / "videos"
    for name in ("left", "right"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "bad.mp4").write_bytes(b"junk")
    command = ["--data.annotations.root", root, "--splits", "[train]"]
    command += ["--max_failures", allowed] if allowed else []
    if status:
        with pytest.raises(SystemExit) as stopped:
            prepare(prepare_config, *command)
        assert stopped.value.code == status
    else:
        prepare(prepare_config, *command)
    errors = capsys.readouterr().err
    assert errors.count("unreadable video: ") == 2
    assert ("error: 2 of 2 videos cannot be prepared, at most" in errors) == bool(status)
    report = json.loads((tmp_path / "small/prepare_0_of_1.json").read_text())
    assert [failure["path"] for failure in report["failures"]] == [
        str(root / "train" / name / "bad.mp4") for name in ("left", "right")
    ]
    assert all("cannot be parsed" in failure["reason"] for failure in report["failures"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.index_cache", "null", "--data.reencode_dir", "null", "--data.reencode_size", "null"], "for one at"),
        (["--shard", "3/3"], "shard: expected i/n with i from 0 to n - 1"),
        (["--max_failures", "-1"], "max_failures: expected a number of videos, or a fraction"),
        (["--splits", "[all]"], "all"),
        (["--data.reencode_size", "[33, 24]"], "reencode_size: expected an even width and height"),
        (["--data.reencode_dir", "null"], "reencode_size: expected a reencode_dir"),
    ],
)
def test_wrong_options_are_one_line(
    prepare_config: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        prepare(prepare_config, *options)
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_it_is_killed_at_random_and_continues(
    prepare_config: Path,
    tmp_path: Path,
    longer_videos: Path,
    killing: Callable[..., Any],
    stamps_of: Callable[..., Any],
) -> None:
    """With its processes: what is whole stays, and at the end all is there, once."""
    small, indices = tmp_path / "small", tmp_path / "index"

    def results() -> dict[str, Any]:
        report = json.loads((small / "prepare_0_of_1.json").read_text())
        assert (report["made"] + report["kept"], report["failures"]) == (40, [])
        stand_ins = sorted(small.glob("*.mp4"))
        found = {video: stored_index(indices, str(video)) for video in (*stand_ins, *longer_videos.glob("train/*/*"))}
        assert (len(stand_ins), len(list(indices.glob("*/*.index")))) == (40, 80)
        return {path.name: path.read_bytes() for path in stand_ins} | found

    options = {"--config": prepare_config, "--data.annotations.root": longer_videos, "--splits": "[train]"}
    command = ["prepare", *(part for option in options.items() for part in option), "--num_workers", 2]
    killing(
        command,
        [small, indices],
        whole=lambda: stamps_of(path for path in tmp_path.rglob("*") if path.suffix in (".mp4", ".index")),
        results=results,
    ).check(20, share=0.2)


def stored_index(indices: Path, path: str) -> dict[str, Any]:
    """What is stored of a video, without when the video was written."""
    file = IndexCache(indices).file_of(path)
    stamp = file_stamp(path)
    assert file is not None
    assert stamp is not None
    values = vars(decode_index(file.read_bytes(), path, stamp))
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
