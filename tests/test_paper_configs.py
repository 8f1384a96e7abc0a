"""The recipes on UCF-101 and HMDB-51: the papers' numbers, names that networks have, and the README's chain, run."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lightning_modules.analysis.cost import cost_of
from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.exit_networks import ExitNetworks
from lightning_modules.networks.early_exit import EarlyExitNetworks
from lightning_modules.parameter_rules import ParameterRule, build_optimizer

ROOT = Path(__file__).parents[1]
STREAMS = ("mv", "residual", "iframe")
CLASSES = {"ucf101": 101, "hmdb51": 51}
# Learning rate, batch, steps, epochs of CoViAR's README.
COVIAR = {
    ("ucf101", "mv"): (0.01, 80, [150, 270, 390], 510),
    ("ucf101", "residual"): (0.005, 80, [150, 270, 390], 510),
    ("ucf101", "iframe"): (0.0003, 80, [150, 270, 390], 510),
    ("hmdb51", "mv"): (0.005, 80, [120, 200, 280], 360),
    ("hmdb51", "residual"): (0.001, 80, [120, 180, 240], 300),
    ("hmdb51", "iframe"): (0.0003, 40, [55, 110, 165], 220),
}
TINY_NETWORK = {"width": 4, "num_classes": 2, "weights": None, "sha256": None}
TINY_DATA = "--data.size 32 --data.batch_size 4 --data.num_workers 0 --data.annotations.check_sizes false"
TINY_TRAINER = "--trainer.accelerator cpu --trainer.check_val_every_n_epoch 1 --trainer.max_epochs"


def read(data_set: str, experiment: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / data_set / f"{experiment}.yaml").read_text())


def rules(config: dict[str, Any], data_set: str) -> list[ParameterRule]:
    given = config["model"]["init_args"]["parameter_rules"]
    if isinstance(given, str):
        given = yaml.safe_load((ROOT / "configs" / data_set / given).read_text())
    return [ParameterRule(**rule) for rule in given]


def network_of(data_set: str, stream: str) -> dict[str, Any]:
    return without_weights(read(data_set, stream)["model"]["init_args"]["network"])


def options_by_name(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that learns."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(("data_set", "stream"), COVIAR)
def test_streams_are_trained_with_coviars_numbers(data_set: str, stream: str) -> None:
    config = read(data_set, stream)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    schedule = model["lr_scheduler"]["init_args"]["milestones"]
    came = model["optimizer"]["init_args"]["lr"], data["batch_size"], schedule, config["trainer"]["max_epochs"]
    assert came == COVIAR[data_set, stream]
    assert (0.66 in data["scales"]) == (stream == "iframe")
    assert (data["num_segments"], data["test_segments"], data["test_crops"]) == (3, 25, 10)
    assert model["network"]["init_args"]["num_classes"] == CLASSES[data_set]
    assert model["network"]["init_args"]["sha256"][:8] in model["network"]["init_args"]["weights"]


def coviar(name: str, stream: str) -> tuple[float, float]:
    """Factors on learning rate and weight decay, as `train.py` of CoViAR's code has them."""
    decay = 0 if "bias" in name else 1
    if stream != "iframe" and name.startswith(("conv1.", "bn1.", "input_bn.")):
        return 0.1, decay
    return (1, decay) if name.startswith("fc.") else (0.01, decay)


@pytest.mark.parametrize(("data_set", "stream"), COVIAR)
def test_parameters_have_coviars_multipliers(data_set: str, stream: str) -> None:
    config = read(data_set, stream)
    with torch.device("meta"):
        network = build_network(network_of(data_set, stream))
    optimizer = build_optimizer(lambda p: torch.optim.SGD(p, lr=1, weight_decay=1), network, rules(config, data_set))
    expected = {name: coviar(name, stream) for name, _ in network.named_parameters()}
    assert options_by_name(optimizer, network) == expected


@cache
def exit_networks(data_set: str, layouts: tuple[str, ...], iframe: str = "resnet50") -> EarlyExitNetworks:
    """The streams' networks with exits, without values."""
    configs = {}
    for stream, layout in zip(STREAMS, layouts, strict=True):
        backbone = network_of(data_set, stream)
        if stream == "iframe":
            backbone["class_path"] = f"lightning_modules.networks.{iframe}"
        early_exit = "lightning_modules.networks.early_exit.EarlyExitNetwork"
        configs[stream] = {"class_path": early_exit, "init_args": {"backbone": backbone, "exits": layout or {}}}
    with torch.device("meta"):
        return ExitNetworks.from_state({"configs": configs, "classes": []}).networks


@pytest.mark.parametrize("data_set", CLASSES)
def test_exits_learn_at_the_rates_of_their_streams(data_set: str) -> None:
    config = read(data_set, "pkd")
    model = config["model"]["init_args"]
    networks = exit_networks(data_set, tuple(model["exits"][stream] for stream in STREAMS))
    assert len(networks.exit_names) == 12
    options = model["optimizer"]["init_args"]
    optimizer = build_optimizer(lambda p: torch.optim.Adam(p, **options), networks, rules(config, data_set))
    rates = {name: lr for name, (lr, _) in options_by_name(optimizer, networks).items()}
    learning = [name for name, parameter in networks.named_parameters() if parameter.requires_grad]
    expected = {name: COVIAR[data_set, name.split(".")[1]][0] for name in learning}
    assert rates == pytest.approx(expected)
    assert sum(model["stages"]["init_args"]["lengths"]) == config["trainer"]["max_epochs"] == 300


@pytest.mark.parametrize("data_set", CLASSES)
def test_each_experiment_takes_what_the_one_before_leaves(data_set: str) -> None:
    best = {name: f"{read(data_set, name)['run_dir']}/checkpoints/best.ckpt" for name in (*STREAMS, "pkd")}
    networks = {stream: best[stream] for stream in STREAMS}
    assert read(data_set, "pkd")["model"]["init_args"]["networks"] == networks
    assert read(data_set, "fusion")["model"]["init_args"]["networks"] == networks
    assert read(data_set, "wise")["model"]["init_args"]["exits"] == best["pkd"]


@pytest.mark.parametrize("data_set", CLASSES)
@pytest.mark.parametrize("experiment", [*STREAMS, "pkd", "wise", "fusion"])
def test_headers_tell_the_multiply_adds(data_set: str, experiment: str) -> None:
    layouts = ("resnet18", "resnet18", "resnet50") if experiment in ("pkd", "wise") else ("", "", "")
    depths = ("resnet50",) if experiment in ("mv", "residual") else ("resnet50", "resnet152")
    text = (ROOT / "configs" / data_set / f"{experiment}.yaml").read_text()
    (line,) = re.findall(r"^# Cost .*", text, re.MULTILINE)
    told = re.findall(r"\d+\.\d\d", line)
    assert told == [f"{giga_of(exit_networks(data_set, layouts, depth), experiment):.2f}" for depth in depths]


def giga_of(networks: EarlyExitNetworks, experiment: str) -> float:
    """Multiply-adds of one frame of the experiment's stream, or of each."""
    chosen: Any = dict(networks.networks.items())
    streams = {s: clip(network) for s, network in chosen.items() if experiment in (s, "pkd", "wise", "fusion")}
    return cost_of(EarlyExitNetworks({s: chosen[s] for s in streams}), streams).total / 1e9


def clip(network: Any) -> Tensor:
    return torch.empty(1, 1, network.in_channels, 224, 224, device="meta")


def flat(values: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {key: values}
    return {k: v for name, value in values.items() for k, v in flat(value, f"{key}.{name}".lstrip(".")).items()}


@pytest.mark.parametrize("experiment", [*STREAMS, "pkd", "wise", "fusion"])
def test_data_sets_differ_in_the_papers_numbers_and_in_paths_alone(experiment: str) -> None:
    first, second = (flat(read(data_set, experiment)) for data_set in CLASSES)
    different = {key.rpartition(".")[2] for key in first | second if first.get(key) != second.get(key)}
    paths = {"run_dir", "index_cache", "reencode_dir", "exits", *(STREAMS if experiment in ("pkd", "fusion") else ())}
    numbers = {"num_classes", "lr", "parameter_rules", "batch_size", "milestones", "max_epochs"}
    assert different <= paths | numbers | ({"streams"} if experiment == "iframe" else set())


@pytest.fixture
def miniature(tmp_path: Path, tiny_videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user with a UCF-101 of two classes, one clip a group; the networks are tiny."""
    lists = tmp_path / "data/ucf101/ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    for label in ("left", "right"):
        list_clips(lists / "trainlist02.txt", label, 8, [*tiny_videos.glob(f"[tv][ra]*/{label}/*")])
        list_clips(lists / "testlist02.txt", label, 1, [*tiny_videos.glob(f"test/{label}/*")])
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for stream in STREAMS:
        path = tmp_path / f"configs/ucf101/{stream}.yaml"
        config = yaml.safe_load(path.read_text())
        config["model"]["init_args"]["network"]["init_args"] |= TINY_NETWORK
        path.write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_clips(path: Path, label: str, first_group: int, videos: list[Path]) -> None:
    """Add videos of a class to an official list, and to the disk under the names of UCF-101."""
    name = label.title()
    number = f" {['left', 'right'].index(label) + 1}" if path.name.startswith("train") else ""
    with path.open("a") as file:
        for group, video in enumerate(sorted(videos), start=first_group):
            clip = path.parents[1] / f"UCF-101/{name}/v_{name}_g{group:02d}_c01"
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.with_suffix(".mp4").symlink_to(video)
            file.write(f"{name}/{clip.name}.avi{number}\n")


def readme_commands(folder: Path, **variables: str) -> list[list[str]]:
    """What the README's chain would call, by a shell that has a `lightning` which only notes its arguments."""
    (block,) = re.findall(r"```bash\n(data_set=.*?)```", (ROOT / "configs/README.md").read_text(), re.DOTALL)
    for name, value in variables.items():
        block = re.sub(rf"^{name}=\S+", f"{name}={value}", block, flags=re.MULTILINE)
    stub = folder / "bin/lightning"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "\\n"\n')
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", block], env={"PATH": path}, capture_output=True, text=True, check=True)
    return [line.split("\0")[:-1] for line in done.stdout.splitlines()]


def tiny(command: list[str]) -> list[str]:
    """A command at a tiny scale."""
    is_pkd = "configs/ucf101/pkd.yaml" in command
    options = f"{TINY_DATA} {TINY_TRAINER} {3 if is_pkd else 1}"
    if any(f"configs/ucf101/{stream}.yaml" in command for stream in STREAMS):
        options += " --data.test_segments 2"
    return [*command, *options.split(), *(["--model.stages.lengths", "[1, 1, 1]"] if is_pkd else [])]


def test_the_readmes_chain_runs(miniature: Path, streamkd: Callable[..., int | None]) -> None:
    commands = readme_commands(miniature, data_set="ucf101", split="2")
    assert len(commands) == 10
    for command in commands:
        assert streamkd(*tiny(command)) == 0, command
    tests = {name: metrics_of(miniature / "runs/ucf101/split2" / name) for name in (*STREAMS, "pkd", "wise")}
    assert {metrics["test/num_videos"] for metrics in tests.values()} == {5}
    exits = [name for name in tests["wise"] if name.startswith("test/exited/")]
    assert len(exits) == 12
    assert sum(tests["wise"][name] for name in exits) == pytest.approx(1)


def metrics_of(run: Path) -> dict[str, float]:
    return json.loads((run / "test.json").read_text())["metrics"]
