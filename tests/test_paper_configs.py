"""The recipes on UCF-101, HMDB-51 and a part of Kinetics: the papers' numbers, and names that networks have."""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.flow_cache import FlowSettings
from lightning_modules.analysis.cost import cost_of
from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.exit_networks import ExitNetworks
from lightning_modules.networks.early_exit import EarlyExitNetwork, EarlyExitNetworks
from lightning_modules.parameter_rules import ParameterRule, build_optimizer

ROOT = Path(__file__).parents[1]
STREAMS = ("mv", "residual", "iframe")
P_STREAM = "mv+residual"
TEAM = "iframe+mv+residual"
FILES = {P_STREAM: "p_stream"}  # where they are not named for their stream
CHANNELS = {"mv": 2, "residual": 3, "iframe": 3, "flow": 2, P_STREAM: 5}
CLASSES = {"ucf101": 101, "hmdb51": 51}
IP_TSN = {**CLASSES, "kinetics_subset": 40}
# Learning rate, batch, steps, epochs of CoViAR's README.
COVIAR = {
    ("ucf101", "mv"): (0.01, 80, [150, 270, 390], 510),
    ("ucf101", "residual"): (0.005, 80, [150, 270, 390], 510),
    ("ucf101", "iframe"): (0.0003, 80, [150, 270, 390], 510),
    ("hmdb51", "mv"): (0.005, 80, [120, 200, 280], 360),
    ("hmdb51", "residual"): (0.001, 80, [120, 180, 240], 300),
    ("hmdb51", "iframe"): (0.0003, 40, [55, 110, 165], 220),
}
# Of IP TSN's nothing is known: CoViAR's for motion vectors; and for Kinetics, of as many videos, those for UCF-101.
TRAINING = COVIAR | {
    (data_set, stream): COVIAR[data_set if data_set in CLASSES else "ucf101", "iframe" if stream == "iframe" else "mv"]
    for data_set in IP_TSN
    for stream in (("flow", P_STREAM) if data_set in CLASSES else ("flow", P_STREAM, "iframe"))
}
# Learning rate, weight decay, batch and steps of TEAM-Net's code; learning rate of PKD on it.
TEAM_NET = {"ucf101": (0.02, 1e-4, 78, [5, 10, 15], 0.01), "hmdb51": (0.02, 5e-4, 75, [10, 15, 20], 0.02)}
TEAM_NET_EXPERIMENTS = ("team_net", "team_net_pkd", "team_net_wise")


def read(data_set: str, experiment: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / data_set / f"{experiment}.yaml").read_text())


def rules(config: dict[str, Any], data_set: str) -> list[ParameterRule]:
    given = config["model"]["init_args"]["parameter_rules"]
    if isinstance(given, str):
        given = yaml.safe_load((ROOT / "configs" / data_set / given).read_text())
    return [ParameterRule(**rule) for rule in given]


def read_stream(data_set: str, stream: str) -> dict[str, Any]:
    return read(data_set, FILES.get(stream, stream))


def network_of(data_set: str, stream: str) -> dict[str, Any]:
    return without_weights(read_stream(data_set, stream)["model"]["init_args"]["network"])


def options_by_name(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that learns."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(("data_set", "stream"), TRAINING)
def test_streams_are_trained_with_coviars_numbers(data_set: str, stream: str) -> None:
    config = read_stream(data_set, stream)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    schedule = model["lr_scheduler"]["init_args"]["milestones"]
    came = model["optimizer"]["init_args"]["lr"], data["batch_size"], schedule, config["trainer"]["max_epochs"]
    assert came == TRAINING[data_set, stream]
    assert (0.66 in data["scales"]) == (stream == "iframe")
    assert (data["num_segments"], data["test_segments"], data["test_crops"]) == (3, 25, 10)
    assert model["stream"] == stream
    network = model["network"]["init_args"]
    assert (network["num_classes"], network["in_channels"]) == (IP_TSN[data_set], CHANNELS[stream])
    assert network["input_norm"] == (stream != "iframe")
    assert network["sha256"][:8] in network["weights"]


def coviar(name: str, stream: str) -> tuple[float, float]:
    """Factors on learning rate and weight decay, as `train.py` of CoViAR's code has them."""
    decay = 0 if "bias" in name else 1
    if stream != "iframe" and name.startswith(("conv1.", "bn1.", "input_bn.")):
        return 0.1, decay
    return (1, decay) if name.startswith("fc.") else (0.01, decay)


@pytest.mark.parametrize(("data_set", "stream"), TRAINING)
def test_parameters_have_coviars_multipliers(data_set: str, stream: str) -> None:
    config = read_stream(data_set, stream)
    with torch.device("meta"):
        network = build_network(network_of(data_set, stream))
    optimizer = build_optimizer(lambda p: torch.optim.SGD(p, lr=1, weight_decay=1), network, rules(config, data_set))
    expected = {name: coviar(name, stream) for name, _ in network.named_parameters()}
    assert options_by_name(optimizer, network) == expected


Layouts = tuple[tuple[str, str], ...]  # of exits, by stream


@cache
def exit_networks(data_set: str, layouts: Layouts, iframe: str = "resnet50") -> EarlyExitNetworks:
    """The streams' networks with exits, without values."""
    configs = {}
    for stream, layout in layouts:
        backbone = network_of(data_set, stream)
        if stream == "iframe":
            backbone["class_path"] = f"lightning_modules.networks.{iframe}"
        early_exit = "lightning_modules.networks.early_exit.EarlyExitNetwork"
        configs[stream] = {"class_path": early_exit, "init_args": {"backbone": backbone, "exits": layout or {}}}
    with torch.device("meta"):
        return ExitNetworks.from_state({"configs": configs, "classes": []}).networks


@pytest.mark.parametrize("data_set", CLASSES)
@pytest.mark.parametrize(("experiment", "num_exits"), [("pkd", 12), ("pkd_ip", 8)])
def test_exits_learn_at_the_rates_of_their_streams(data_set: str, experiment: str, num_exits: int) -> None:
    config = read(data_set, experiment)
    model = config["model"]["init_args"]
    networks = exit_networks(data_set, tuple(model["exits"].items()))
    assert len(networks.exit_names) == num_exits
    options = model["optimizer"]["init_args"]
    optimizer = build_optimizer(lambda p: torch.optim.Adam(p, **options), networks, rules(config, data_set))
    rates = {name: lr for name, (lr, _) in options_by_name(optimizer, networks).items()}
    learning = [name for name, parameter in networks.named_parameters() if parameter.requires_grad]
    expected = {name: TRAINING[data_set, name.split(".")[1]][0] for name in learning}
    assert rates == pytest.approx(expected)
    stages = model["stages"]["init_args"]
    assert stages["teachers"] == list(model["networks"])
    assert sum(stages["lengths"]) == config["trainer"]["max_epochs"] == 300


@pytest.mark.parametrize("data_set", CLASSES)
def test_each_experiment_takes_what_the_one_before_leaves(data_set: str) -> None:
    networks = {stream: best(data_set, stream) for stream in STREAMS}
    assert read(data_set, "pkd")["model"]["init_args"]["networks"] == networks
    assert read(data_set, "fusion")["model"]["init_args"]["networks"] == networks
    assert read(data_set, "wise")["model"]["init_args"]["exits"] == best(data_set, "pkd")


def best(data_set: str, experiment: str) -> str:
    return f"{read(data_set, experiment)['run_dir']}/checkpoints/best.ckpt"


@pytest.mark.parametrize("data_set", IP_TSN)
def test_ip_tsn_takes_what_the_experiments_before_it_leave(data_set: str) -> None:
    assert read(data_set, "p_stream")["model"]["init_args"]["teacher"] == best(data_set, "flow")
    networks = {"iframe": best(data_set, "iframe"), P_STREAM: best(data_set, "p_stream")}
    assert read(data_set, "ip_tsn")["model"]["init_args"]["networks"] == networks
    if data_set in CLASSES:
        assert read(data_set, "pkd_ip")["model"]["init_args"]["networks"] == networks
        (backbones,) = re.findall(r"--model.exits (\S+pkd_ip/\S+)", text(data_set, "wise"))
        assert backbones == best(data_set, "pkd_ip")
    (resnet152,) = re.findall(r"--model.networks.iframe (\S+)/checkpoints/best.ckpt", text(data_set, "ip_tsn"))
    assert f"--run_dir {resnet152} --model.network lightning_modules.networks.resnet152" in text(data_set, "iframe")


def text(data_set: str, experiment: str) -> str:
    return (ROOT / "configs" / data_set / f"{experiment}.yaml").read_text()


def data_of(data_set: str, experiment: str) -> CompressedVideoDataModule:
    given = read(data_set, experiment)["data"]["init_args"]
    flow = FlowSettings(**given.get("flow", {}))
    return CompressedVideoDataModule(**{**given, "annotations": None, "index_cache": None, "flow": flow})


@pytest.mark.parametrize("data_set", IP_TSN)
def test_data_have_what_networks_of_ip_tsn_see_and_flow_in_training_alone(data_set: str) -> None:
    flow, p_stream, both = (data_of(data_set, name) for name in ("flow", "p_stream", "ip_tsn"))
    assert flow.reader.flow == p_stream.reader.flow == FlowSettings("dis", "medium", f"data/{data_set}_flow")
    assert flow.reader.reference == p_stream.reader.reference == both.reader.reference == "iframe"
    assert flow.test_reader.shapes == {"flow": (25, 2, 224, 224)}
    assert p_stream.reader.shapes == {P_STREAM: (3, 5, 224, 224), "flow": (3, 2, 224, 224)}
    assert p_stream.eval_reader.shapes == {P_STREAM: (3, 5, 224, 224)}
    expected = {"iframe": (25, 3, 224, 224), P_STREAM: (25, 5, 224, 224)}
    assert both.reader.shapes == both.test_reader.shapes == expected
    assert (both.fit_split, both.test_reader.num_views) == ("val", 10)
    stand_ins = {getattr(data.reader.source.stand_ins, "directory", None) for data in (flow, p_stream, both)}
    assert len(stand_ins) == 1, "the cache of flow is of one encoding"
    assert (stand_ins == {None}) == (data_set == "ucf101")


def test_flow_distillation_has_the_weights_of_mars() -> None:
    for data_set in IP_TSN:
        model = read(data_set, "p_stream")["model"]["init_args"]
        assert (model["feature_weight"], model["logit_weight"], model["temperature"]) == (50, 1, 2)


def test_as_many_classes_are_listed_as_networks_tell_apart() -> None:
    assert len(read("kinetics_subset", "annotations")["init_args"]["class_names"]) == IP_TSN["kinetics_subset"]


THREE, TWO = [*STREAMS], ["iframe", P_STREAM]
# Streams whose networks' cost a header tells, in one sum or one by one; exits; whether ResNet-152 follows.
COSTS: dict[str, tuple[list[list[str]], bool, bool]] = {
    "mv": ([["mv"]], False, False),
    "residual": ([["residual"]], False, False),
    "iframe": ([["iframe"]], False, True),
    "pkd": ([THREE], True, True),
    "wise": ([THREE], True, True),
    "fusion": ([THREE], False, True),
    "flow": ([["flow"]], False, False),
    "p_stream": ([[P_STREAM], ["flow"]], False, False),
    "ip_tsn": ([TWO], False, True),
    "pkd_ip": ([TWO], True, True),
}


@pytest.mark.parametrize(
    ("data_set", "experiment"),
    [(d, e) for d in IP_TSN for e in COSTS if d in CLASSES or e in ("flow", "p_stream", "iframe", "ip_tsn")],
)
def test_headers_tell_the_multiply_adds(data_set: str, experiment: str) -> None:
    groups, have_exits, with_resnet152 = COSTS[experiment]
    (line,) = re.findall(r"^# Cost .*", text(data_set, experiment), re.MULTILINE)
    depths = ("resnet50", "resnet152") if with_resnet152 else ("resnet50",)
    expected = [giga_of(data_set, streams, have_exits, depth) for streams in groups for depth in depths]
    assert re.findall(r"\d+\.\d\d", line) == [f"{giga:.2f}" for giga in expected]


def giga_of(data_set: str, streams: list[str], have_exits: bool, depth: str) -> float:
    """Multiply-adds of one frame of each stream."""
    layouts = {stream: "resnet50" if stream == "iframe" else "resnet18" for stream in streams}
    networks = exit_networks(data_set, tuple((s, layouts[s] if have_exits else "") for s in streams), depth)
    members: Any = dict(networks.networks.items())
    return cost_of(networks, {stream: clip(network) for stream, network in members.items()}).total / 1e9


def clip(network: Any) -> Tensor:
    return torch.empty(1, 1, network.in_channels, 224, 224, device="meta")


def flat(values: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {key: values}
    return {k: v for name, value in values.items() for k, v in flat(value, f"{key}.{name}".lstrip(".")).items()}


@cache
def team_net(data_set: str) -> EarlyExitNetwork:
    """With the exits of PKD, without values."""
    backbone = network_of(data_set, "team_net")
    with torch.device("meta"):
        return EarlyExitNetwork(build_network(backbone), read(data_set, "team_net_pkd")["model"]["init_args"]["exits"])


@pytest.mark.parametrize("data_set", CLASSES)
def test_team_net_is_trained_with_its_codes_numbers(data_set: str) -> None:
    config = read(data_set, "team_net")
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    sgd = model["optimizer"]["init_args"]
    came = sgd["lr"], sgd["weight_decay"], data["batch_size"], model["lr_scheduler"]["init_args"]["milestones"]
    assert came == TEAM_NET[data_set][:4]
    assert (sgd["momentum"], trainer["max_epochs"], trainer["gradient_clip_val"]) == (0.9, 30, 20)
    reader = data_of(data_set, "team_net").test_reader
    assert (reader.shapes, reader.num_views) == ({TEAM: (8, 8, 224, 224)}, 10)
    for name, part in team_net(data_set).backbone.streams.items():
        assert (part.num_classes, part.dropout.p, part.layer1[0].shift_div) == (CLASSES[data_set], 0.5, 8)
        assert isinstance(part.input_bn, nn.BatchNorm2d) == (name != "iframe")
        given = model["network"]["init_args"][name]["init_args"]
        assert given["sha256"][:8] in given["weights"]


@pytest.mark.parametrize("data_set", CLASSES)
def test_parameters_have_team_nets_multipliers(data_set: str) -> None:
    network = team_net(data_set).backbone
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    expected = {}
    for name, _ in network.named_parameters():
        decay = 0 if name.endswith("bias") or name.rpartition(".")[0] in norms else 1
        expected[name] = {"fc.weight": 5, "fc.bias": 10}.get(".".join(name.split(".")[-2:]), 1), decay
    given = rules(read(data_set, "team_net"), data_set)
    learning = copy.deepcopy(network).requires_grad_()
    optimizer = build_optimizer(lambda p: torch.optim.SGD(p, lr=1, weight_decay=1), learning, given)
    assert options_by_name(optimizer, learning) == expected


@pytest.mark.parametrize("data_set", CLASSES)
def test_exits_of_team_net_learn_with_the_codes_numbers(data_set: str) -> None:
    config, wise = read(data_set, "team_net_pkd"), read(data_set, "team_net_wise")["model"]["init_args"]
    model = config["model"]["init_args"]
    adam, steps = model["optimizer"]["init_args"], model["lr_scheduler"]["init_args"]["milestones"]
    assert (adam, steps) == ({"lr": TEAM_NET[data_set][4], "eps": 0.001}, [25, 30, 35])
    assert (config["data"]["init_args"]["batch_size"], config["trainer"]["max_epochs"]) == (64, 40)
    assert model["stages"]["init_args"] == {"teachers": ["mv", "residual", "iframe"], "lengths": [3, 3, 34]}
    assert set(model["stages"]["init_args"]["teachers"]) <= set(team_net(data_set).heads)
    assert model["networks"] == {TEAM: best(data_set, "team_net")}
    assert (wise["exits"], wise["l1"], wise["l1_from"]) == (best(data_set, "team_net_pkd"), 0.01, 2)


@pytest.mark.parametrize("data_set", CLASSES)
@pytest.mark.parametrize("experiment", TEAM_NET_EXPERIMENTS)
def test_headers_tell_the_multiply_adds_of_team_net(data_set: str, experiment: str) -> None:
    network = team_net(data_set)
    clip = torch.empty(data_of(data_set, experiment).reader.shapes[TEAM], device="meta")[None]
    if experiment == "team_net":
        total = cost_of(network.backbone, clip).total
        expected = [total, 10 * total]
    else:
        cost = cost_of(network, clip)
        expected = [cost.total, *(cost.to_exit(name) for name in network.exit_names[:-1])]
    (line,) = re.findall(r"^# Cost .*", text(data_set, experiment), re.MULTILINE)
    assert re.findall(r"\d+\.\d\d", line) == [f"{cost / 1e9:.2f}" for cost in expected]


@pytest.mark.parametrize("experiment", [*COSTS, *TEAM_NET_EXPERIMENTS])
def test_data_sets_differ_in_the_papers_numbers_and_in_paths_alone(experiment: str) -> None:
    first, second = (flat(read(data_set, experiment)) for data_set in CLASSES)
    different = {key.rpartition(".")[2] for key in first | second if first.get(key) != second.get(key)}
    paths = {"run_dir", "index_cache", "reencode_dir", "exits", "teacher", "cache", *networks_of(experiment)}
    numbers = {"num_classes", "lr", "weight_decay", "parameter_rules", "batch_size", "milestones", "max_epochs"}
    assert different <= paths | numbers | ({"streams"} if experiment == "iframe" else set())


def networks_of(experiment: str) -> list[str]:
    return list(read("ucf101", experiment)["model"]["init_args"].get("networks", ()))
