"""The table of finished runs: figures by hand, and its place in a README."""

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.analysis.cost import cost_of
from lightning_modules.cli import main
from lightning_modules.networks import resnet10
from lightning_modules.results import BEGIN, END

CHAIN = "mv: {paper: 40, source: CoViAR}\nwise:\npkd:\n"


def leave(run: Path, metrics: dict[str, float], *, seed: int = 0, split: int | None = None, **fit: Any) -> None:
    """What a run leaves; its network is a ResNet-10 of 51 classes, on 3 frames and 10 views of 32 pixels."""
    run.mkdir(parents=True)
    network = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 51, "in_channels": 2}}
    annotations = {"class_path": "datamodules.annotations.HMDB51", "init_args": {"split": split} if split else {}}
    views = {"streams": ["mv"], "size": 32, "num_segments": 2, "test_segments": 3, "test_crops": 10}
    data = {"class_path": "datamodules.compressed_video.CompressedVideoDataModule"}
    model = {"stream": "mv", "network": network} if run.name == "mv" else {"networks": {"mv": "runs/gone.ckpt"}}
    config: dict[str, Any] = {"seed_everything": seed, "model": {"init_args": model}}
    config["data"] = data | {"init_args": views | {"annotations": annotations}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "test.json").write_text(json.dumps({"metrics": metrics, "num_videos": 4}))
    (run / "fit.json").write_text(json.dumps(fit))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for data_set in ("hmdb51", "activitynet"):
        (tmp_path / "configs" / data_set).mkdir(parents=True)
        (tmp_path / "configs" / data_set / "chain.yaml").write_text(CHAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_figures_of_several_splits_and_seeds(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = work / "runs/hmdb51"
    hardware = {"devices": "2 x GPU, 8 CPUs", "versions": "PyTorch 3"}
    leave(runs / "split1/mv", {"test/top1": 0.40}, split=1, seconds=5400.0, hardware=hardware)
    leave(runs / "split2/mv", {"test/top1": 0.42}, split=2, seconds=9000.0, hardware=hardware)
    leave(runs / "split2_seed1/mv", {"test/top1": 0.47}, split=2, seed=1, seconds=7200.0)
    leave(runs / "split1/wise", {"test/top1": 0.5}, split=1, seconds=90)
    leave(runs / "split1/no_experiment", {"test/top1": 0.9})
    leave(work / "runs/activitynet/mv", {"test/mAP": 0.3, "test/top1": 0.9})
    leave(work / "runs/fraction_0.1/hmdb51/split3/mv", {"test/top1": 0.9}, split=3)
    main(["results"])
    shown = capsys.readouterr().out
    header, _, *found = rows(shown)
    assert header[6] == "G a video"
    giga = 10 * cost_of(resnet10(num_classes=51, in_channels=2), torch.zeros(1, 3, 2, 32, 32)).total / 1e9
    spread, cost = f"43.0 ± {stdev([40, 42, 47]):.1f}", f"{giga:.4g}"
    of_three = ["split 1, 2; seed 0, 1", spread, "40", "+3.0", "CoViAR", cost, "2.0 h", "2 x GPU, 8 CPUs"]
    assert found == [
        ["`activitynet/mv`", "seed 0", "30.0", "40", "-10.0", "CoViAR", cost, "", ""],
        ["`hmdb51/mv`", *of_three],
        ["`hmdb51/wise`", "split 1; seed 0", "50.0", "", "", "", "", "1.5 min", ""],
    ]
    assert shown.endswith("\nPyTorch 3\n")


def test_a_table_takes_the_place_of_the_one_before(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(work / "runs/hmdb51/mv", {"test/top1": 0.40})
    readme = work / "README.md"
    readme.write_text(f"above\n\n{BEGIN}\n\n| old |\n\n{END}\n\nbelow\n")
    for top1 in (0.25, 0.5):
        test = work / "runs/hmdb51/mv/test.json"
        test.write_text(json.dumps({"metrics": {"test/top1": top1}, "num_videos": 4}))
        main(["results", "--output", str(readme)])
    text = readme.read_text()
    assert text.startswith(f"above\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nbelow\n")
    assert [row[0:3] for row in rows(text)[2:]] == [["`hmdb51/mv`", "seed 0", "50.0"]]


def test_the_readme_has_a_place_for_it() -> None:
    text = (Path(__file__).parents[2] / "configs/README.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def test_no_runs_and_no_place_are_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["results"])
    assert "found none; `streamkd reproduce` makes them" in capsys.readouterr().err
    leave(work / "runs/hmdb51/mv", {"test/top1": 0.40})
    (work / "README.md").write_text("nothing\n")
    with pytest.raises(SystemExit):
        main(["results", "--output", "README.md"])
    assert f"README.md: expected a line `{BEGIN}`" in capsys.readouterr().err
