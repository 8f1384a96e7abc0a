"""`streamkd export`: files that answer as the checkpoint's networks do, what stands beside them, and refusals."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from datamodules.transforms import normalise
from lightning_modules import export_command
from lightning_modules.cli import main
from lightning_modules.ensemble import CONNECTIONS
from lightning_modules.exit_networks import STATE, attach_exits
from lightning_modules.export_formats import Agreement
from lightning_modules.networks import EarlyExitNetwork, SingleExit
from lightning_modules.weighted_inference import STATE as WEIGHTED
from lightning_modules.weighted_inference import WeightedInferenceModule

DATA = "datamodules.compressed_video.CompressedVideoDataModule"
SHAPE = ("--num_frames", "2", "--size", "32")

SaveNetwork = Callable[..., str]


@pytest.fixture
def exits(tmp_path: Path, save_network: SaveNetwork) -> str:
    """A checkpoint as ProgressiveDistillationModule leaves it: two streams with four exits each."""
    sources = {stream: save_network(tmp_path, stream) for stream in ("mv", "iframe")}
    torch.manual_seed(3)
    trained = attach_exits(sources, "linear")
    state = {f"networks.{name}": value for name, value in trained.networks.state_dict().items()}
    path = tmp_path / "pkd.ckpt"
    about = trained.state() | {"classes": ["left", "right"], "sizes": {"mv": (24, 32), "iframe": (32, 32)}}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state, STATE: about}, path)
    return str(path)


def run_onnx(path: Path, clip: torch.Tensor) -> torch.Tensor:
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"clip": clip.numpy()})
    return torch.from_numpy(logits)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_network_becomes_three_files(
    tmp_path: Path, save_network: SaveNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = save_network(tmp_path, "mv+residual"), tmp_path / "out"
    main(["export", "--checkpoint", checkpoint, "--output", str(folder), *SHAPE])
    assert names_in(folder) == {"mv+residual.onnx", "mv+residual.pt2", "mv+residual.json"}
    network = export_command.read_deployed(checkpoint)[0].network
    clip = torch.randn(4, 2, 5, 32, 32)
    expected = network(clip)
    torch.testing.assert_close(run_onnx(folder / "mv+residual.onnx", clip), expected, rtol=1e-4, atol=1e-5)
    program = torch.export.load(folder / "mv+residual.pt2").module()
    torch.testing.assert_close(program(clip), expected, rtol=1e-4, atol=1e-5)
    about = json.loads((folder / "mv+residual.json").read_text())
    assert about["input"] == {"name": "clip", "dtype": "float32", "shape": ["batch", 2, 5, 32, 32]}
    assert about["output"] == {"name": "logits", "dtype": "float32", "shape": ["batch", 2]}
    assert (about["stream"], about["classes"], about["multi_label"]) == ("mv+residual", [], False)
    levels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    mean, std = (np.array(about["normalisation"][key])[:, None, None] for key in ("mean", "std"))
    seen = (levels * about["normalisation"]["scale"] - mean) / std
    np.testing.assert_allclose(normalise("mv+residual", torch.from_numpy(levels)), seen, atol=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(folder / f"mv+residual.{kind}") for kind in ("onnx", "pt2")]
    assert all("greatest difference" in line for line in lines)


def test_frames_come_from_the_runs_configuration_and_sizes_from_the_checkpoint(tmp_path: Path, exits: str) -> None:
    """One exit of one stream; the file is as small as what it computes."""
    data = {"class_path": DATA, "init_args": {"streams": ["mv", "iframe"], "num_segments": 3, "size": 64}}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint = Path(exits).rename(tmp_path / "run" / "checkpoints" / "best.ckpt")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    folder = tmp_path / "out"
    options = ("--output", str(folder), "--stream", "mv", "--exit", "layer1", "--formats", "[onnx]")
    main(["export", "--checkpoint", str(checkpoint), *options])
    assert names_in(folder) == {"mv_layer1.onnx", "mv_layer1.json"}
    about = json.loads((folder / "mv_layer1.json").read_text())
    assert about["input"]["shape"] == ["batch", 3, 2, 24, 32]
    assert (about["exit"], about["classes"]) == ("layer1", ["left", "right"])
    network = export_command.read_deployed(str(checkpoint), "mv", "final")[0].network.network
    assert isinstance(network, EarlyExitNetwork)
    clip = torch.randn(1, 3, 2, 24, 32)
    expected = network(clip)[:, 0]
    torch.testing.assert_close(run_onnx(folder / "mv_layer1.onnx", clip), expected, rtol=1e-4, atol=1e-5)
    weights = sum(p.numel() for p in network.parameters())
    stored = sum(math.prod(weight.dims) for weight in onnx.load(folder / "mv_layer1.onnx").graph.initializer)
    assert stored < weights / 4


def test_all_exits_of_weighted_inference_with_their_scales(tmp_path: Path, exits: str) -> None:
    """Logits of the files, added up as the JSON says, are the module's outputs."""
    torch.manual_seed(0)
    state = torch.load(exits)
    scales = torch.randn(8, 8).tril()
    module = WeightedInferenceModule(None, exits, order=["iframe", "mv"])
    names = [f"{stream}/{exit}" for stream in ("iframe", "mv") for exit in ("layer1", "layer2", "layer3", "final")]
    path = tmp_path / "wise.ckpt"
    state["state_dict"]["scales"] = scales
    chosen = dict.fromkeys(CONNECTIONS, 0.5) | {"scaled": 0.875}
    state[WEIGHTED] = {"order": ["iframe", "mv"], "exit_names": names, "gathered": [], "chosen": chosen}
    state["hyper_parameters"] = dict(module.hparams) | {"threshold": "chosen"}
    torch.save(state, path)
    folder = tmp_path / "out"
    options = ("--output", str(folder), "--formats", "[pt2]", "--exit", "layer1", *SHAPE)
    main(["export", "--checkpoint", str(path), *options])
    assert names_in(folder) == {f"{stream}_layer1.{kind}" for stream in ("mv", "iframe") for kind in ("pt2", "json")}
    about = json.loads((folder / "mv_layer1.json").read_text())
    assert about["threshold"] == 0.875
    assert about["weights"] == pytest.approx(dict(zip(names[:5], scales[4, :5].tolist(), strict=True)))
    assert [network.name for network in export_command.read_deployed(str(path))] == [
        f"{stream}_{exit}" for stream in ("mv", "iframe") for exit in ("layer1", "layer2", "layer3", "final")
    ]


def failing(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["export", *options])
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Warning" not in line]
    return line


def test_exits_are_compared_with_the_whole_network(
    tmp_path: Path, exits: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with the part that was cut out of it."""
    monkeypatch.setattr(SingleExit, "forward", lambda self, clip: 1.5 * self.network(clip)[:, 1])
    options = ("--output", str(tmp_path / "out"), "--stream", "mv", "--exit", "layer2", "--formats", "[pt2]", *SHAPE)
    assert "not written, it differs from the original" in failing(capsys, "--checkpoint", exits, *options)


def test_what_differs_is_not_written(
    tmp_path: Path, save_network: SaveNetwork, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is what was right before it, and what stood there stays."""
    agreements = iter([Agreement(1e-7, 1.0), Agreement(0.125, 1.0)])
    monkeypatch.setattr(export_command, "compare", lambda *_: next(agreements))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mv.onnx").write_text("of an earlier day")
    options = ("--output", str(tmp_path / "out"), *SHAPE)
    line = failing(capsys, "--checkpoint", save_network(tmp_path, "mv"), *options)
    assert line.startswith(f"error: {tmp_path / 'out' / 'mv.pt2'}: not written, it differs from the original by 0.12,")
    assert "expected at most 0.0001 of the largest (--tolerance)" in line
    assert names_in(tmp_path / "out") == {"mv.onnx"}
    assert (tmp_path / "out" / "mv.onnx").read_text() == "of an earlier day"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stream", "residual", *SHAPE), "--stream: expected one of ['mv', 'iframe']"),
        (("--exit", "layer7", *SHAPE), "expected one of ['layer1', 'layer2', 'layer3', 'final'], came 'layer7'"),
        ((), "give --num_frames, or --config"),
        (("--formats", "[tflite]"), "formats"),
        (("--formats", "[]"), "--formats: expected some of ['onnx', 'pt2'], came none"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_refusals_are_one_line(
    tmp_path: Path, exits: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert said in failing(capsys, "--checkpoint", exits, "--output", str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


def test_a_network_without_exits_has_none(
    tmp_path: Path, save_network: SaveNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--checkpoint", save_network(tmp_path, "mv"))
    assert "has no exits" in failing(capsys, *options, "--exit", "final", *SHAPE)
    assert "give --size, or --config" in failing(capsys, *options, "--num_frames", "2")
    assert "no such checkpoint" in failing(capsys, "--checkpoint", str(tmp_path / "none.ckpt"))


def test_without_the_packages_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules: dict[str, Any] = sys.modules  # type: ignore[assignment]
    monkeypatch.setitem(modules, "onnxruntime", None)
    line = failing(capsys, "--checkpoint", str(tmp_path / "none.ckpt"))
    assert "pip install 'streamkd[export]'" in line
