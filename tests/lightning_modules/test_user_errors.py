"""What users get wrong about data is said in one line with the remedy, before any long work, by each command."""

import re
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli import main

COMMANDS = ("fit", "prepare", "flow")
ERRORS = {
    "path": ("--data.annotations.root nowhere", r"nowhere: no such folder \(config key: root\)"),
    "videos": ("--data.annotations.videos UCF101", r"data/ucf101/UCF101: no such folder \(config key: videos\)"),
    "split": ("--data.annotations.split 4", r"data\.annotations\.split: .*1, 2, 3.*4"),
    "list": (
        "--data.annotations.split 2",
        r"data/ucf101/ucfTrainTestlist: expected trainlist02\.txt, found none \(config key: lists\)",
    ),
    "sizes": ("--data.annotations.check_sizes true", r"expected 101 classes, got 2|expected 9537 videos, got 36"),
    "key": ("--data.batchsize 2", r"batchsize"),
}


@pytest.fixture
def listed_config(tiny_config: Path, ucf101_lists: Path, tmp_path: Path) -> Path:
    """The tiny experiment on the lists, with flow and indices that are kept."""
    config = yaml.safe_load(tiny_config.read_text())
    options = {"root": str(ucf101_lists.parent), "check_sizes": False}
    config["data"]["init_args"] |= {
        "annotations": {"class_path": "datamodules.annotations.UCF101", "init_args": options},
        "streams": ["residual", "flow"],
        "privileged": ["flow"],
        "flow": {"cache": str(tmp_path / "flow")},
        "index_cache": str(tmp_path / "index"),
    }
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


def failing(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Warning" not in line]
    assert line.startswith("error: ")
    return line


@pytest.mark.usefixtures("no_video_opens")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", ERRORS)
def test_wrong_data_is_a_line(
    command: str, case: str, listed_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = ERRORS[case]
    line = failing(capsys, command, "--config", listed_config, *options.split())
    assert re.search(message, line), line
    assert not [tmp_path / name for name in ("run/checkpoints", "flow", "index") if (tmp_path / name).exists()]


@pytest.mark.usefixtures("no_video_opens")
def test_other_classes_are_a_line(listed_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = failing(capsys, "fit", "--config", listed_config, "--model.network.num_classes", 3)
    assert "the data has 2 classes, the network 3; set the network's `num_classes: 2`" in line
    assert not (tmp_path / "run/checkpoints").exists()
