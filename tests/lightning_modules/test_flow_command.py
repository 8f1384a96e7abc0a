"""`streamkd flow`, and a run that trains with privileged flow and predicts without any of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from datamodules.flow_cache import FlowCache, FlowSettings
from lightning_modules.cli import main
from lightning_modules.data_command import OTHER_KEYS

pytest.importorskip("cv2")


@pytest.fixture
def flow_config(tiny_config: Path) -> Path:
    """The tiny experiment, of motion vectors, with privileged flow."""
    config = yaml.safe_load(tiny_config.read_text())
    config["model"]["init_args"]["stream"] = "mv"
    config["model"]["init_args"]["network"]["init_args"]["in_channels"] = 2
    config["data"]["init_args"] |= {"streams": ["mv", "flow"], "privileged": ["flow"]}
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


def fill(config: Path, *options: object) -> None:
    main(["flow", "--config", str(config), *map(str, options)])


def stored(cache: Path) -> dict[Path, int]:
    """Times of change of the files of a cache, hidden ones too."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_it_fills_the_cache_in_parallel_and_continues(
    flow_config: Path, tmp_path: Path, tiny_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "flow"
    fill(flow_config, "--data.flow.cache", cache, "--num_workers", 2)
    assert "optical flow of 10 videos, 10 made now, 0 unreadable" in capsys.readouterr().out
    before = stored(cache)
    assert len(before) == 10
    paths = [str(path) for path in (tiny_videos / "train").rglob("*.mp4")]
    files = FlowCache(str(cache), FlowSettings(), "iframe")
    assert set(before) == {files.file_of(path) for path in paths}
    torn, gone = files.file_of(paths[0]), files.file_of(paths[1])
    made_in_parallel = _members(gone)
    torn.write_bytes(torn.read_bytes()[:-9])
    gone.unlink()
    leftover = cache / f".flow.{'0' * 16}.zip"  # of a process that was killed
    leftover.touch()
    os.utime(leftover, (0, 0))
    fill(flow_config, "--data.flow.cache", cache, "--num_workers", 0)
    assert "10 videos, 2 made now" in capsys.readouterr().out
    after = stored(cache)
    assert after.keys() == before.keys()
    assert _members(gone) == made_in_parallel
    assert {path for path in before if after[path] != before[path]} == {torn, gone}


def _members(path: Path) -> dict[str, bytes]:
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_it_is_killed_at_random_and_continues(
    flow_config: Path,
    tmp_path: Path,
    longer_videos: Path,
    killing: Callable[..., Any],
    stamps_of: Callable[..., Any],
) -> None:
    """With its processes: what is whole stays, and at the end all is there."""
    cache = tmp_path / "flow"
    options = {"--config": flow_config, "--data.annotations.root": longer_videos, "--data.flow.cache": cache}
    command = ["flow", *(part for option in options.items() for part in option), "--num_workers", 2]

    def results() -> dict[Path, dict[str, bytes]]:
        files = {path: _members(path) for path in cache.rglob("*.zip")}
        assert len(files) == 40
        return files

    killing(command, [cache], whole=lambda: stamps_of(cache.rglob("*.zip")), results=results).check(20, share=0.2)


def test_flow_that_is_not_privileged_is_read_in_every_split(
    flow_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--data.privileged", "[]", "--data.flow.cache", tmp_path / "flow", "--num_workers", 0)
    fill(flow_config, *options)
    assert "optical flow of 21 videos" in capsys.readouterr().out, "10 of train, 6 of val, 5 of test"


def test_unreadable_videos_are_listed(flow_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "videos"
    for name in ("left", "right"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "bad.mp4").write_bytes(b"junk")
    fill(flow_config, "--data.annotations.root", root, "--data.flow.cache", tmp_path / "flow", "--num_workers", 0)
    shown = capsys.readouterr()
    assert shown.err.count("unreadable video: ") == 2
    assert "0 videos, 0 made now, 2 unreadable" in shown.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "data.flow.cache: expected the folder"),
        (["--data.streams", "[mv]", "--data.privileged", "[]"], "data.streams: expected flow among them, got mv"),
        (["--data.flow.method", "farneback"], "farneback"),
        (["--splits", "[all]"], "all"),
    ],
)
def test_wrong_options_are_one_line(
    flow_config: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        fill(flow_config, *options)
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


WITNESS = """
import sys
from pathlib import Path
from lightning.pytorch import Callback

class Witness(Callback):
    def __init__(self, path: str):
        self.path = path

    def teardown(self, trainer, pl_module, stage):
        with open(self.path, "a") as file:
            print(trainer.state.fn.value, "cv2" in sys.modules, file=file)
"""


def test_training_imports_opencv_and_nothing_else_does(
    flow_config: Path,
    tmp_path: Path,
    tiny_videos: Path,
    streamkd: Callable[..., int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every verb in a process of its own."""
    monkeypatch.chdir(tmp_path)
    Path("witness.py").write_text(WITNESS)
    config = yaml.safe_load(flow_config.read_text())
    config["trainer"]["callbacks"] = [{"class_path": "witness.Witness", "init_args": {"path": "seen.txt"}}]
    flow_config.write_text(yaml.safe_dump(config))
    assert streamkd("fit", "--config", flow_config) == 0
    saved = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(saved.read_text()).keys() - {"data"} <= set(OTHER_KEYS), "`streamkd flow` takes it too"
    for verb in ("validate", "test"):
        assert streamkd(verb, "--config", saved) == 0
    assert streamkd("predict", "--config", saved, "--data.predict_paths", f"[{tiny_videos}/test/left]") == 0
    assert len(Path("run/predictions.jsonl").read_text().splitlines()) == 3
    seen = Path("seen.txt").read_text().splitlines()
    assert seen == ["fit True", "validate False", "test False", "predict False"]
