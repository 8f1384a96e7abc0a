"""Early-exit networks against their parts run one by one, frozen backbones bit for bit, lazy against whole passes."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.checkpoints import build_network
from lightning_modules.losses import soft_target_cross_entropy
from lightning_modules.networks import (
    EarlyExitNetwork,
    EarlyExitNetworks,
    InternalClassifier,
    LinearClassifier,
    resnet10,
)

STREAMS = {"mv": 2, "residual": 3, "iframe": 3}


def build(in_channels: int = 2, **options: object) -> EarlyExitNetwork:
    return EarlyExitNetwork(resnet10(5, in_channels, width=8, input_norm=True), **options)


@pytest.fixture
def network() -> EarlyExitNetwork:
    torch.manual_seed(0)
    return build()


@pytest.fixture
def clip() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, 2, 48, 48)


@pytest.fixture
def networks() -> EarlyExitNetworks:
    torch.manual_seed(2)
    return EarlyExitNetworks({stream: build(channels) for stream, channels in STREAMS.items()}).eval()


@pytest.fixture
def streams() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {stream: torch.randn(4, 2, channels, 48, 48) for stream, channels in STREAMS.items()}


def test_exits_are_the_classifiers_on_the_backbones_maps(network: EarlyExitNetwork, clip: Tensor) -> None:
    network.eval()
    assert network.exit_names == ("layer1", "layer2", "layer3", "final")
    features = network.backbone.forward_features(clip)
    expected = [network.classifiers[name](features[name]) for name in ("layer1", "layer2", "layer3")]
    expected.append(network.backbone(clip))
    assert torch.equal(network(clip), torch.stack(expected, dim=1))


def test_a_run_that_is_given_up_holds_no_maps(network: EarlyExitNetwork, clip: Tensor) -> None:
    gc.disable()
    try:
        run = network.exits(clip)
        assert next(run)[0] == "layer1"
        maps = weakref.ref(run.maps)
        del run
        assert maps() is None, "its maps wait for the garbage collector"
    finally:
        gc.enable()


def test_outputs_are_those_of_what_the_frozen_part_gives(
    networks: EarlyExitNetworks, streams: dict[str, Tensor]
) -> None:
    features = networks.features(streams)
    assert set(features) == set(networks.output_names)
    assert not any(maps.requires_grad for maps in features.values())
    maps = networks.networks["mv"].backbone.forward_features(streams["mv"])
    assert torch.equal(features["mv/layer2"], maps["layer2"])
    assert features["mv/final"].shape == (4, 1, networks.num_classes, 1, 1)
    torch.testing.assert_close(networks.outputs_of(features), networks(streams))


def test_one_pass_runs_every_part_of_the_backbone_once(network: EarlyExitNetwork, clip: Tensor) -> None:
    calls: Counter[str] = Counter()
    for name, module in network.backbone.named_modules():
        if name.endswith(("conv1", "conv2", "downsample.0", "fc")):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    network(clip)
    assert set(calls.values()) == {1}
    assert len(calls) == 1 + 4 * 2 + 3 + 1


def test_training_leaves_the_backbone_bit_for_bit_and_teaches_all_classifiers(
    network: EarlyExitNetwork, clip: Tensor
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits = network(clip)
        soft_target_cross_entropy(logits, logits[:, -1]).sum().backward()
        optimizer.step()
    assert not any(module.training for module in network.backbone.modules())
    assert all(module.training for module in network.classifiers.modules())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name


def test_gradients_stop_at_the_classifiers(network: EarlyExitNetwork, clip: Tensor) -> None:
    logits = network(clip.requires_grad_())
    logits.sum().backward()
    assert clip.grad is None


def test_an_explicit_train_of_a_whole_leaves_backbones_in_eval_mode(networks: EarlyExitNetworks) -> None:
    whole = nn.Sequential(networks)
    whole.train()
    for network in networks.networks.values():
        assert not any(module.training for module in network.backbone.modules())
        assert all(module.training for module in network.classifiers.modules())
    whole.eval()
    assert not any(module.training for module in whole.modules())


@pytest.mark.parametrize("choose", [lambda keep: keep, lambda keep: keep.nonzero().flatten()], ids=["mask", "indices"])
def test_samples_that_leave_change_nothing_for_the_others(
    network: EarlyExitNetwork, clip: Tensor, choose: Callable[[Tensor], Tensor]
) -> None:
    network.double().eval()
    whole = network(clip.double())
    remaining = torch.arange(4)
    run = network.exits(clip.double())
    for index, (name, logits) in enumerate(run):
        assert name == network.exit_names[index]
        torch.testing.assert_close(logits, whole[remaining, index])
        keep = remaining != (2, 0, 3, 1)[index]
        run.keep(choose(keep))
        remaining = remaining[keep]
    assert run.maps.shape[0] == 0


def test_what_is_not_asked_for_is_not_computed(network: EarlyExitNetwork, clip: Tensor) -> None:
    calls: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    run = network.exits(clip)
    assert not calls
    next(run)
    assert {"backbone.layer1", "classifiers.layer1"} <= set(calls)
    assert not {"backbone.layer2", "classifiers.layer2"} & set(calls)
    next(run)
    assert "backbone.layer2" in calls
    assert "backbone.layer3" not in calls


def test_classifiers_at_any_depth_whatever_the_order_they_are_given_in() -> None:
    exits = {"layer4": LinearClassifier, "stem": partial(InternalClassifier, channels=3, kernel_size=7, padding=3)}
    network = build(exits=exits).eval()
    assert network.exit_names == ("stem", "layer4", "final")
    assert network(torch.randn(1, 1, 2, 32, 32)).shape == (1, 3, 5)


@pytest.mark.parametrize("exits", ["convolutional", "linear"])
@pytest.mark.parametrize("side", [32, 112])
def test_layouts_for_any_network_run_at_small_sizes(exits: str, side: int) -> None:
    assert build(exits=exits)(torch.randn(2, 1, 2, side, side)).shape == (2, 4, 5)


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ("resnet99", r"`exits`: expected one of \['resnet18', .*'linear'\].*came 'resnet99'"),
        ({"layer9": LinearClassifier}, r"`exits`: expected some of .*'layer4'\], came \['layer9'\]"),
    ],
)
def test_other_exits_are_refused(exits: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(exits=exits)


def test_without_classifiers_the_network_itself_is_the_only_exit() -> None:
    network, clip = build(exits={}), torch.randn(2, 1, 2, 32, 32)
    assert network.exit_names == ("final",)
    torch.testing.assert_close(network(clip)[:, 0], network.backbone(clip))


def test_networks_without_depths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`backbone`: expected a network with depths .*, came Linear"):
        EarlyExitNetwork(nn.Linear(2, 2))


def test_builds_from_a_config() -> None:
    backbone = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 5, "width": 8}}
    linear = {"class_path": "lightning_modules.networks.LinearClassifier"}
    wide = {"class_path": "lightning_modules.networks.InternalClassifier", "init_args": {"channels": 3}}
    early = [
        {"class_path": "lightning_modules.networks.EarlyExitNetwork", "init_args": {"backbone": backbone, "exits": e}}
        for e in ("resnet18", {"layer2": wide, "layer3": linear})
    ]
    config = {
        "class_path": "lightning_modules.networks.EarlyExitNetworks",
        "init_args": {"networks": {"residual": early[0], "iframe": early[1]}, "order": ["iframe", "residual"]},
    }
    network = build_network(config)
    assert network.exit_names[:4] == ("iframe/layer2", "iframe/layer3", "iframe/final", "residual/layer1")
    assert network.networks["iframe"].classifiers["layer2"].head.conv.weight.shape == (3, 16, 3, 3)


def test_three_streams_make_twelve_exits(networks: EarlyExitNetworks, streams: dict[str, Tensor]) -> None:
    logits = networks(streams)
    assert logits.shape == (4, 12, 5)
    assert networks.exit_names[:5] == ("mv/layer1", "mv/layer2", "mv/layer3", "mv/final", "residual/layer1")
    each = [networks.networks[stream](streams[stream]) for stream in STREAMS]
    assert torch.equal(logits, torch.cat(each, dim=1))


INTERLEAVED = [f"{stream}/{exit}" for exit in ("layer1", "layer2", "layer3", "final") for stream in STREAMS]


@pytest.mark.parametrize(
    "order", [["residual", "mv", "iframe"], INTERLEAVED, ["iframe", *INTERLEAVED[::3], "residual"]]
)
def test_the_order_moves_exits_and_nothing_else(
    networks: EarlyExitNetworks, streams: dict[str, Tensor], order: list[str]
) -> None:
    by_name = dict(zip(networks.exit_names, networks(streams).unbind(1), strict=True))
    ordered = EarlyExitNetworks(dict(networks.networks.items()), order=order).eval()
    assert set(ordered.exit_names) == set(by_name)
    expected = torch.stack([by_name[name] for name in ordered.exit_names], dim=1)
    assert torch.equal(ordered(streams), expected)


@pytest.mark.parametrize(
    "order",
    [
        ["mv", "residual"],
        ["mv", "residual", "iframe", "mv"],
        ["mv", "residual", "rgb"],
        [INTERLEAVED[3], *INTERLEAVED[:3], *INTERLEAVED[4:]],
    ],
    ids=["missing", "twice", "unknown", "deep first"],
)
def test_other_orders_are_refused(networks: EarlyExitNetworks, order: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`order`: expected each of .*'mv/layer1'.*shallow before deep.*came"):
        EarlyExitNetworks(dict(networks.networks.items()), order=order)


def test_networks_of_other_classes_are_refused() -> None:
    other = EarlyExitNetwork(resnet10(6, width=8))
    with pytest.raises(ValueError, match=r"one `num_classes`, by stream, came \{'mv': 5, 'iframe': 6\}"):
        EarlyExitNetworks({"mv": build(), "iframe": other})
    with pytest.raises(ValueError, match=r"came \{\}"):
        EarlyExitNetworks({})


def test_streams_are_loaded_when_due_and_for_those_who_stay(
    networks: EarlyExitNetworks, streams: dict[str, Tensor]
) -> None:
    networks.double()
    streams = {stream: value.double() for stream, value in streams.items()}
    whole = dict(zip(networks.exit_names, networks(streams).unbind(1), strict=True))
    remaining, loaded = torch.arange(4), []

    def load(stream: str) -> Tensor:
        loaded.append(stream)
        return streams[stream][remaining]

    run = networks.exits(load)
    for step, (name, logits) in enumerate(run):
        assert loaded == list(STREAMS)[: step // 4 + 1]
        torch.testing.assert_close(logits, whole[name][remaining])
        if step in (1, 6):
            run.keep(torch.arange(len(remaining)) != 1)
            remaining = remaining[torch.arange(len(remaining)) != 1]
    assert len(remaining) == 2


def test_exports(networks: EarlyExitNetworks, streams: dict[str, Tensor]) -> None:
    exported = torch.export.export(networks, (streams,)).module()
    torch.testing.assert_close(exported(streams), networks(streams))


def test_compiles_without_graph_breaks(network: EarlyExitNetwork, clip: Tensor) -> None:
    network.eval()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clip), network(clip))


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert build().eval()(torch.empty(2, 3, 2, 112, 112)).shape == (2, 4, 5)
