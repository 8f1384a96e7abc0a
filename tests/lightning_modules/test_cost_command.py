"""`streamkd cost` on configurations, against figures by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.analysis.cost import cost_of
from lightning_modules.cli import main
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10

DATA = "datamodules.compressed_video.CompressedVideoDataModule"
NETWORK = {"class_path": "lightning_modules.networks.resnet18", "init_args": {"num_classes": 101, "weights": "no/file"}}


def write(folder: Path, network: object, **data: object) -> str:
    path = folder / "config.yaml"
    model = {"init_args": {"network": network, "stream": "iframe"}}
    path.write_text(yaml.safe_dump({"model": model, "data": {"class_path": DATA, "init_args": data}}))
    return str(path)


def test_prints_what_a_frame_costs_without_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cost", "--config", write(tmp_path, NETWORK, size=224, num_segments=1)])
    text = capsys.readouterr().out
    assert "1 view of (1, 3, 224, 224)" in text
    # 1.814 GMAC with 1000 classes, as torchvision has it, less 899 rows of the classifier.
    total = next(line.split() for line in text.splitlines() if line.startswith("total"))
    assert float(total[1].replace(",", "")) == pytest.approx(1814.07 - 899 * 512 / 1e6, abs=0.01)


def test_sizes_frames_and_conventions_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, NETWORK)
    main(["cost", "--config", config, "--size", "64", "--num_frames", "4", "--convention", "paper", "--depth", "1"])
    text = capsys.readouterr().out
    assert "1 view of (4, 3, 64, 64)" in text
    assert "paper" in text
    assert "layer1.0" not in text


def test_table_by_view_and_video_in_all_conventions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ResKD's printed figures: ResNet-50 of 200 classes, 16 frames at 112 pixels; parts of the configuration apart."""
    network = {"class_path": "lightning_modules.networks.resnet50", "init_args": {"num_classes": 200}}
    config = yaml.safe_load(Path(write(tmp_path, network)).read_text())
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"class_path": DATA, "init_args": {"size": 112, "test_segments": 16, "test_crops": 3}})
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"data": "data.yaml"}))
    main(["cost", "--config", str(tmp_path / "config.yaml")])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "view" in line]
    view, video = ([float(cell) for cell in row[3:7]] for row in rows)
    assert view == pytest.approx([23.51 + 200 * 2.049e-3, 17.22, 17.35, 17.22], abs=0.005)
    assert video[1:] == pytest.approx([3 * value for value in view[1:]], abs=2e-3)


def test_a_student_sees_the_small_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default as the paper's: 112 pixels; three crops and two clips make six views."""
    model = {"init_args": {"network": NETWORK, "stream": "rgb", "teacher": "no/file"}}
    options = {"num_segments": 8, "test_crops": 3, "test_clips": 2}
    data = {"class_path": "datamodules.multi_resolution.MultiResolutionDataModule", "init_args": options}
    (tmp_path / "reskd.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    main(["cost", "--config", str(tmp_path / "reskd.yaml")])
    text = capsys.readouterr().out
    assert "1 view of (8, 3, 112, 112)" in text
    assert "a video, 6 views" in text


def test_networks_with_exits_out_of_their_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], save_network: Callable[..., str]
) -> None:
    networks = {stream: save_network(tmp_path, stream) for stream in ("mv", "iframe")}
    stages = {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": ["mv"]}}
    model = {"init_args": {"networks": networks, "exits": "linear", "stages": stages}}
    options = {"streams": ["mv", "iframe"], "size": {"mv": 64, "iframe": 32}, "num_segments": 3}
    data = {"class_path": DATA, "init_args": options}
    (tmp_path / "pkd.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    main(["cost", "--config", str(tmp_path / "pkd.yaml")])
    text = capsys.readouterr().out
    assert "1 view of (3, 2, 64, 64)" in text
    assert "1 view of (3, 3, 32, 32)" in text
    exits = {name: EarlyExitNetwork(resnet10(2, c, width=4), "linear") for name, c in (("mv", 2), ("iframe", 3))}
    clips = {"mv": torch.zeros(1, 3, 2, 64, 64), "iframe": torch.zeros(1, 3, 3, 32, 32)}
    cost = cost_of(EarlyExitNetworks(exits), clips)
    printed = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "/" in line}
    for name in ("mv/layer1", "iframe/layer3", "iframe/final"):
        expected = [cost.exits[name] / 1e6, cost.to_exit(name) / 1e6]
        assert [float(cell) for cell in printed[name]] == pytest.approx(expected, abs=0.006)
    model["init_args"] = {"networks": networks}
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    main(["cost", "--config", str(tmp_path / "fusion.yaml")])
    assert "layer1 " not in capsys.readouterr().out.partition("exit ")[2]


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        (
            None,
            {"size": 64},
            "expected a network in `model.init_args.network`, or checkpoints in `model.init_args.networks`",
        ),
        (NETWORK, {"streams": ["mv"]}, "expected `data.init_args.streams` to have ['iframe'], came ['mv']"),
    ],
)
def test_other_configurations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: object, data: dict[str, object], message: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["cost", "--config", write(tmp_path, network, **data)])
    assert exit.value.code == 1
    assert message in capsys.readouterr().err
