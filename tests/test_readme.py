"""What the README says is so: its commands run (at a tiny scale), its Python runs, its targets exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.bitstream import encode_frames
from lightning_modules.networks import resnet10

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TINY_FIT = "--data.num_workers 0 --data.size 32 --data.batch_size 8"
TINY_STAGES = "--model.stages.init_args.lengths [1,1,1]"
TINY_RESKD = "--trainer.max_epochs 1 --model.network.init_args.width 4 --data.low_resolution.size 16"
TINY_FLOW = f"{TINY_FIT} --trainer.max_epochs 1 --trainer.check_val_every_n_epoch 1"
TINY = {
    "streamkd demo-data": "--num_train 24 --num_val 24 --num_test 12",
    "lightning fit": f"--trainer.max_epochs 1 {TINY_FIT} --model.network.init_args.width 4",
    "lightning fit --config configs/demo/fusion.yaml": TINY_FIT,
    "lightning fit --config configs/demo/pkd.yaml": f"--trainer.max_epochs 3 {TINY_STAGES} {TINY_FIT}",
    "lightning fit --config configs/demo/wise.yaml": TINY_FIT,
    "lightning fit --config configs/demo/reskd": f"{TINY_FIT} --trainer.max_epochs 1 --model.network.init_args.width 4",
    "lightning fit --config configs/demo/reskd.yaml": f"{TINY_RESKD} {TINY_FIT}",
    "lightning test --config configs/demo/reskd.yaml": f"{TINY_RESKD} {TINY_FIT}",
    "lightning fit --config configs/demo/flow.yaml": TINY_FLOW,
    "lightning fit --config configs/demo/p_stream.yaml": TINY_FLOW,
    "lightning fit --config configs/demo/ip_tsn.yaml": TINY_FIT,
    "lightning test": TINY_FIT,
    "lightning predict": TINY_FIT,
    "streamkd export": "",
    "streamkd report": "",
    "streamkd show": "",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def lines_with(program: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(program)]


def tiny(command: str) -> list[str]:
    """The arguments of a README command, at a tiny scale: by the longest of the prefixes in `TINY`."""
    prefix = max((key for key in TINY if command.startswith(key)), key=len)
    arguments = command.split()[1:] + TINY[prefix].split()
    return [argument.strip("'") for argument in arguments]


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamkd: Callable[..., int | None]) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    commands = [line for program in ("streamkd ", "lightning ") for line in lines_with(program)]
    assert len(commands) == 21
    for command in sorted(commands, key=README.index):
        assert streamkd(*tiny(command)) == 0, command
    records = [json.loads(line) for line in (tmp_path / "runs/demo/fusion/predictions.jsonl").read_text().splitlines()]
    assert len(records) == 12
    assert all(len(record["top"]) == 5 for record in records)
    report = (tmp_path / "runs/demo/report.html").read_text()
    tested = (tmp_path / "runs/demo").glob("*/test.json")
    scores = {path.parent.name: json.loads(path.read_text())["metrics"]["test/top1"] for path in tested}
    assert scores.keys() == {"fusion", "wise", "reskd", "ip_tsn"}
    (shown,) = re.findall("<h2>Confusion of (.*?)</h2>", report)
    assert scores[shown] == max(scores.values())
    assert (tmp_path / ".github/streams.png").is_file()
    assert (tmp_path / "runs/demo/wise/trade_off.png").is_file()
    assert (tmp_path / "runs/demo/reskd/receptive_field.png").is_file()
    assert (tmp_path / "test_scene0002_00011_streams.mp4").is_file()
    about = json.loads((tmp_path / "exported/iframe.json").read_text())
    assert about["input"]["shape"] == ["batch", 3, 3, 32, 32]
    assert len(about["classes"]) == 12


def save_residual_network(path: Path) -> None:
    """A checkpoint as the demo's run on residuals leaves it, but small and untrained."""
    torch.manual_seed(0)
    config = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 12, "width": 4}}
    state = {f"network.{name}": value for name, value in resnet10(12, width=4).state_dict().items()}
    data = {"classes": [f"class {number}" for number in range(12)], "sizes": {"residual": [112, 112]}}
    checkpoint = {
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {"network": config, "stream": "residual"},
        "state_dict": state,
        "CompressedVideoDataModule": data,
    }
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_residual_network(tmp_path / "runs/demo/residual/checkpoints/best.ckpt")
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    encode_frames(list(noise), tmp_path / "clip.mp4", codec="h264", gop_size=30)
    for block in blocks("python"):
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
        if "logits" in names:
            expected = names["trained"].network(names["clips"])
            torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, rtol=1e-4, atol=1e-5)
    printed = capsys.readouterr().out
    assert re.search(r"^clip.mp4: class \d+, 0\.\d\d$", printed, re.MULTILINE)
    assert "exported/residual.onnx: " in printed
    assert "30 Gop(start=0, length=12" in printed
    assert "mv=int16[48, 64, 2]" in printed
    assert "(11, 48, 64, 2)" in printed


def test_demo_runs_the_commands_of_the_readme() -> None:
    shown = subprocess.run(["make", "-nB", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in lines_with("lightning fit") + lines_with("streamkd demo-data") + lines_with("lightning test"):
        assert re.search(rf"/{re.escape(command)}( 2>&1 .*)?$", shown, re.MULTILINE), command


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", README, re.MULTILINE))))
def test_targets_exist(target: str) -> None:
    assert re.search(rf"^{target.removesuffix('-dry')}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:configs|datamodules|lightning_modules|callbacks)(?:/[\w./]*)?)`", README)))
)
def test_paths_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_no_blank_is_left_to_fill_in() -> None:
    for path in (ROOT / "README.md", *(ROOT / "configs").rglob("*.*")):
        assert not re.search(r"TODO|TBD|\b[A-Z]+_[A-Z]+\b(?!=)", re.sub(r"`.*?`", "", path.read_text())), path


@pytest.mark.parametrize("folder", [".", "configs/demo", "configs/ut_interaction"])
def test_what_can_be_measured_here_is(folder: str) -> None:
    """The recipes on data sets that none can download say so instead."""
    for path in (ROOT / folder).glob("*.[my][da]*"):
        assert "not measured" not in path.read_text(), path


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
