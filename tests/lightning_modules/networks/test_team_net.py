"""TEAM-Net against loops in float64, published parameter counts, and itself with its streams in another order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.networks import (
    EarlyExitNetwork,
    EarlyExitNetworks,
    ResNet,
    SegmentClassifier,
    TeamNet,
    resnet10,
    resnet18,
    resnet50,
    tsm_resnet10,
)
from lightning_modules.networks.team_net import TeamModule

STREAM = "iframe+mv+residual"
PARTS = {"iframe": 3, "mv": 2, "residual": 3}
# Parameters with 1000 classes and 3 input channels, as torchvision's documentation lists them.
RESNET18, RESNET50 = 11_689_512, 25_557_032


def build(factory: Callable[..., ResNet] = resnet10, **options: object) -> TeamNet:
    """With I-frames of twice the channels, as a bottleneck has more, and statistics that training has moved."""
    torch.manual_seed(0)
    common = {"width": 4, "input_norm": True} | options
    network = TeamNet(*(factory(5, c, **common | {"width": 8} if c == 3 else common) for c in PARTS.values()))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return network.eval()


@pytest.fixture
def clip() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 32, 48, dtype=torch.float64)


def excited_by_hand(module: TeamModule, maps: list[np.ndarray]) -> list[np.ndarray]:
    """One frame's maps (C, h, w) of each stream, with layers of their own for each of them, place by place."""

    def sigmoid(value: np.ndarray | float) -> np.ndarray | float:
        return 1 / (1 + np.exp(-value))

    state = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    pooled = np.array([np.mean(channel) for stream in maps for channel in stream])
    squeezed = np.array([max(sum(row * pooled), 0.0) for row in state["squeeze.weight"]])
    excite = np.split(state["excite.weight"], np.cumsum([len(stream) for stream in maps])[:-1])
    scaled = [
        np.stack([channel * sigmoid(sum(row * squeezed)) for channel, row in zip(stream, rows, strict=True)])
        for stream, rows in zip(maps, excite, strict=True)
    ]
    means = np.stack([stream.mean(axis=0) for stream in scaled])
    height, width = means.shape[1:]
    result = [np.empty_like(stream) for stream in scaled]
    for number, kernel in enumerate(state["spatial.weight"]):  # (streams, 3, 3)
        for y in range(height):
            for x in range(width):
                total = 0.0
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            total += sum(kernel[:, dy + 1, dx + 1] * means[:, y + dy, x + dx])
                result[number][:, y, x] = scaled[number][:, y, x] * sigmoid(total)
    return result


def by_frame(function: Callable[[list[np.ndarray]], list[np.ndarray]], maps: list[Tensor]) -> list[Tensor]:
    """Apply a function of one frame's maps to all frames of maps (B, T, C, h, w)."""
    frames = zip(*(part.flatten(0, 1).detach().numpy() for part in maps), strict=True)
    streams = zip(*(function(list(frame)) for frame in frames), strict=True)
    return [torch.from_numpy(np.stack(stream)).unflatten(0, maps[0].shape[:2]) for stream in streams]


def test_a_module_equals_the_hand_computation() -> None:
    torch.manual_seed(2)
    module = TeamModule([5, 2, 4]).double()
    maps = [torch.randn(2, 3, channels, 4, 3, dtype=torch.float64) for channels in (5, 2, 4)]
    found = module(torch.cat(maps, dim=2))
    for part, expected in zip(found, by_frame(partial(excited_by_hand, module), maps), strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


def test_a_network_equals_its_networks_with_the_hand_computation_between(clip: Tensor) -> None:
    network = build().double()
    parts: list[Tensor] = list(clip.split(list(PARTS.values()), dim=2))
    for depth in ("stem", "layer1", "layer2", "layer3", "layer4"):
        parts = [n.forward_stage(depth, part) for n, part in zip(network.streams.values(), parts, strict=True)]
        if depth != "layer4":
            parts = by_frame(partial(excited_by_hand, network.teams[depth]), parts)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for name, part in zip(PARTS, parts, strict=True):
        fc = network.streams[name].fc
        expected += (part.mean((3, 4)) @ fc.weight.T + fc.bias).mean(1)
    torch.testing.assert_close(network(clip), expected)


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
def test_streams_in_another_order_come_out_in_that_order(order: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    channels = (5, 2, 4)
    module, other = TeamModule(channels).double(), TeamModule([channels[i] for i in order]).double()
    maps = [torch.randn(1, 2, c, 4, 3, dtype=torch.float64) for c in channels]
    state = {name: value.clone() for name, value in module.state_dict().items()}

    def moved(value: Tensor, dim: int) -> Tensor:
        parts = value.split(channels if value.shape[dim] == 11 else [1, 1, 1], dim=dim)
        return torch.cat([parts[i] for i in order], dim=dim)

    state["squeeze.weight"] = moved(state["squeeze.weight"], 1)
    state["excite.weight"] = moved(state["excite.weight"], 0)
    state["spatial.weight"] = moved(moved(state["spatial.weight"], 0), 1)
    other.load_state_dict(state)
    joined, shuffled = torch.cat(maps, dim=2), torch.cat([maps[i] for i in order], dim=2)
    torch.testing.assert_close(other.squeezed(shuffled), module.squeezed(joined))
    expected = module(joined)
    for part, place in zip(other(shuffled), order, strict=True):
        torch.testing.assert_close(part, expected[place])


def test_parameters_are_those_of_the_networks_and_of_the_modules() -> None:
    with torch.device("meta"):
        network = TeamNet(resnet50(101), resnet18(101, 2, input_norm=True), resnet18(101, 3, input_norm=True))
        shifted = TeamNet(tsm_resnet10(101), tsm_resnet10(101, 2), tsm_resnet10(101))
    heads = (101 - 1000) * (2048 + 1 + 2 * (512 + 1))
    inputs = -64 * 49 + 2 * 2 + 2 * 3  # the other channels of conv1, BatchNorms on the input
    widths = {"stem": 192, "layer1": 384, "layer2": 768, "layer3": 1536}
    teams = {name: 2 * width * width // 4 + 3 * 3 * 9 for name, width in widths.items()}
    assert count(network) == RESNET50 + 2 * RESNET18 + heads + inputs + sum(teams.values())
    assert {name: count(module) for name, module in network.teams.items()} == teams
    squeezed = {name: module.squeeze.out_features for name, module in network.teams.items()}
    assert squeezed == {"stem": 48, "layer1": 96, "layer2": 192, "layer3": 384}
    assert shifted.streams["mv"].layer1[0].shift_div == 8


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_gradients_reach_every_parameter(clip: Tensor) -> None:
    network = build(tsm_resnet10, input_norm=True, shift_div=2).double().train()
    network(clip).square().sum().backward()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_every_stream_is_excited_by_all(clip: Tensor) -> None:
    """The head on vectors sees frames and residuals through the modules alone: their layer4 and fc not at all."""
    network = build().double()
    maps = network.forward_features(clip.requires_grad_())["layer4"]
    of_mv = maps.split([64, 32, 64], dim=2)[1]
    of_mv.square().sum().backward()
    for part in clip.grad.split(list(PARTS.values()), dim=2):
        assert part.abs().sum() > 0
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert "streams.iframe.layer3.0.conv1.weight" in reached
    assert not [name for name in reached if "layer4" in name and "mv" not in name]


def test_clips_are_apart_and_any_number_of_frames_goes(clip: Tensor) -> None:
    network = build(tsm_resnet10, shift_div=2).double()
    torch.testing.assert_close(network(clip[1:]), network(clip)[1:])
    for shape in [(1, 1, 8, 32, 32), (0, 4, 8, 32, 32)]:
        assert network(torch.randn(shape, dtype=torch.float64)).shape == (shape[0], 5)


def test_feature_info_describes_the_features(clip: Tensor) -> None:
    features = build(strides=(1, 1, 2, 2)).double().forward_features(clip)
    assert list(features) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    for info in build(strides=(1, 1, 2, 2)).feature_info:
        assert features[info.name].shape == (2, 3, info.channels, 32 // info.reduction, 48 // info.reduction)


def test_a_config_builds_it_from_weights_of_images(tmp_path: Path) -> None:
    source, path = resnet10(7, width=4), str(tmp_path / "imagenet.pth")
    torch.save(source.state_dict(), path)
    factories = {"iframe": "tsm_resnet10", "mv": "resnet10", "residual": "resnet10"}
    networks = {
        name: {
            "class_path": f"lightning_modules.networks.{factories[name]}",
            "init_args": {"num_classes": 5, "in_channels": channels, "width": 4, "weights": path}
            | ({"shift_div": 2} if name == "iframe" else {"input_norm": True}),
        }
        for name, channels in PARTS.items()
    }
    config = {"class_path": "lightning_modules.networks.TeamNet", "init_args": networks}
    network = build_network(config)
    for part in network.streams.values():
        assert torch.equal(part.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    mean = source.conv1.weight.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1)
    torch.testing.assert_close(network.streams["mv"].conv1.weight, mean)
    Path(path).unlink()
    rebuilt = build_network(without_weights(config))
    rebuilt.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ((resnet10(5, 3), resnet10(5, 3), resnet10(5, 2)), r"`in_channels`: expected .*'mv': 2.* came .*'mv': 3"),
        ((resnet10(5), resnet10(6, 2), resnet10(5)), r"the same `num_classes` in all .*came .*'mv': 6"),
        ((resnet10(5), resnet10(5, 2, strides=(1, 1, 2, 2)), resnet10(5)), r"\(`strides`\) in all.*'mv': \[4, 4, 4"),
    ],
    ids=["channels", "classes", "sizes"],
)
def test_networks_that_do_not_go_together_are_refused(networks: tuple[ResNet, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeamNet(*networks)


def test_clips_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected clips of shape \(B, T, 8, H, W\), came \(1, 2, 5, 32, 32\)"):
        build()(torch.randn(1, 2, 5, 32, 32))


def test_exports() -> None:
    network, clip = build(), torch.randn(1, 3, 8, 32, 32)
    exported = torch.export.export(network, (clip,)).module()
    torch.testing.assert_close(exported(clip), network(clip))


class TestExits:
    def test_classifiers_see_what_modules_squeeze_the_maps_to(self, clip: Tensor) -> None:
        network = EarlyExitNetwork(build(), {name: segments(3) for name in ("stem", "layer1", "layer2")}).double()
        assert network.exit_names == ("stem", "layer1", "layer2", "final")
        features = network.backbone.forward_features(clip)
        expected = []
        for name in ("stem", "layer1", "layer2"):
            pooled = features[name].mean((3, 4))
            squeezed = (pooled @ network.backbone.teams[name].squeeze.weight.T).clamp(min=0)
            fc = network.classifiers[name].fc
            expected.append(torch.cat([squeezed[:, t] for t in range(3)], dim=1) @ fc.weight.T + fc.bias)
        expected.append(network.backbone(clip))
        torch.testing.assert_close(network(clip), torch.stack(expected, dim=1))

    def test_the_papers_classifiers(self) -> None:
        with torch.device("meta"):
            backbone = TeamNet(resnet50(101), resnet18(101, 2), resnet18(101))
            network = EarlyExitNetwork(backbone, "team_net")
            linear = EarlyExitNetwork(backbone, "linear")
        shapes = {name: tuple(classifier.fc.weight.shape) for name, classifier in network.classifiers.items()}
        assert shapes == {"stem": (101, 384), "layer1": (101, 768), "layer2": (101, 1536)}
        assert linear.exit_names == network.exit_names
        assert linear.classifiers["layer2"].head.fc.weight.shape == (101, 192)

    def test_heads_add_up_to_the_last_exit_and_are_the_networks_own(self, clip: Tensor) -> None:
        network = EarlyExitNetwork(build(), "linear").double()
        outputs = network.outputs(clip)
        assert list(outputs) == ["stem", "layer1", "layer2", "final", "iframe", "mv", "residual"]
        assert torch.equal(torch.stack(list(outputs.values())[:4], dim=1), network(clip))
        torch.testing.assert_close(sum(outputs[name] for name in PARTS), outputs["final"])
        maps = network.backbone.forward_features(clip)["layer4"].split([64, 32, 64], dim=2)
        for name, part in zip(PARTS, maps, strict=True):
            torch.testing.assert_close(outputs[name], network.backbone.streams[name].classify(part))
        assert not any(outputs[name].requires_grad for name in (*PARTS, "final"))

    def test_one_pass_makes_all_outputs(self, clip: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        networks, calls = EarlyExitNetworks({STREAM: EarlyExitNetwork(build(), "linear").double()}), []
        forward = TeamNet.forward_stage
        monkeypatch.setattr(TeamNet, "forward_stage", lambda n, *a: calls.append(a[0]) or forward(n, *a))
        exits = [f"{STREAM}/{name}" for name in ("stem", "layer1", "layer2", "final")]
        assert networks.output_names == (*exits, *(f"{STREAM}/{name}" for name in PARTS))
        outputs = networks.outputs({STREAM: clip})
        assert calls == ["stem", "layer1", "layer2", "layer3", "layer4"]
        assert torch.equal(outputs[:, :4], networks({STREAM: clip}))

    def test_teachers_are_known_by_the_streams_they_judge(self) -> None:
        joint = EarlyExitNetwork(build(), "linear")
        alone = EarlyExitNetwork(resnet10(5, 2, width=4), "linear")
        final = {STREAM: f"{STREAM}/final"}
        heads = {name: f"{STREAM}/{name}" for name in PARTS}
        assert EarlyExitNetworks({STREAM: joint}).teachers == heads | final
        assert EarlyExitNetworks({"mv": alone}).teachers == {"mv": "mv/final"}
        assert EarlyExitNetworks({STREAM: joint, "mv": alone}).teachers == heads | final | {"mv": "mv/final"}

    def test_clips_of_other_segments_are_refused(self, clip: Tensor) -> None:
        network = EarlyExitNetwork(build(), {"layer1": segments(2)}).double()
        with pytest.raises(ValueError, match=r"expected clips of 2 segments, .*came 3"):
            network(clip)

    def test_the_last_depth_has_none(self) -> None:
        with pytest.raises(ValueError, match=r"depths \['stem', 'layer1', 'layer2', 'layer3'\], came \['layer4'\]"):
            EarlyExitNetwork(build(), {"layer4": segments(3)})


def segments(number: int) -> Callable[..., SegmentClassifier]:
    return partial(SegmentClassifier, num_segments=number)
