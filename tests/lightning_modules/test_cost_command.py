"""`streamkd cost` on configurations, against figures by hand."""

from pathlib import Path

import pytest
import yaml

from lightning_modules.cli import main

NETWORK = {"class_path": "lightning_modules.networks.resnet18", "init_args": {"num_classes": 101, "weights": "no/file"}}


def write(folder: Path, network: object, **data: object) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"network": network}}, "data": {"init_args": data}}))
    return str(path)


def test_prints_what_a_frame_costs_without_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cost", "--experiment", write(tmp_path, NETWORK, size=224)])
    text = capsys.readouterr().out
    assert "resnet18 on a clip of (1, 1, 3, 224, 224)" in text
    # 1.814 GMAC with 1000 classes, as torchvision has it, less 899 rows of the classifier.
    total = next(line.split() for line in text.splitlines() if line.startswith("total"))
    assert float(total[1].replace(",", "")) == pytest.approx(1814.07 - 899 * 512 / 1e6, abs=0.01)


def test_sizes_frames_and_conventions_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, NETWORK)
    main(["cost", "--experiment", config, "--size", "64", "--num_frames", "4", "--convention", "paper", "--depth", "1"])
    text = capsys.readouterr().out
    assert "(1, 4, 3, 64, 64)" in text
    assert "paper" in text
    assert "layer1.0" not in text


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        (None, {"size": 64}, "expected a network in `model.init_args.network`, came None"),
        (NETWORK, {}, "expected one side in pixels in `data.init_args.size`, came None; use --size"),
        (NETWORK, {"size": {"mv": 64}}, "came {'mv': 64}; use --size"),
    ],
)
def test_other_configurations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: object, data: dict[str, object], message: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["cost", "--experiment", write(tmp_path, network, **data)])
    assert exit.value.code == 1
    assert message in capsys.readouterr().err
