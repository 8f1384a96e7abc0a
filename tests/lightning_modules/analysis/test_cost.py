"""Costs against the papers' tables, sums over shapes written by hand, and torch's own counter."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules import networks as all_networks
from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.networks import (
    EarlyExitNetwork,
    EarlyExitNetworks,
    ResNet,
    TeamNet,
    resnet10,
    resnet18,
    resnet50,
    resnet152,
    slow_only_resnet50,
    tsm_resnet18,
    tsm_resnet50,
)

CHANNELS = {"residual": 3, "mv": 2, "iframe": 3}


def giga(network: nn.Module, num_frames: int, side: int, convention: Convention) -> float:
    clip = torch.empty(1, num_frames, 3, side, side, device="meta")
    return cost_of(network, clip, convention=convention).total / 1e9


def by_torch(network: nn.Module, *inputs: object) -> int:
    """Multiply-adds by PyTorch's counter, which takes two operations for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*inputs)
    return counter.get_total_flops() // 2


def papers_networks() -> tuple[EarlyExitNetworks, dict[str, Tensor]]:
    """ResNet-18, -18 and -50 with the exits of PKD, and one frame of each stream."""
    with torch.device("meta"):
        networks = {
            stream: EarlyExitNetwork(resnet18(101, CHANNELS[stream]), "resnet18") for stream in ("residual", "mv")
        }
        networks["iframe"] = EarlyExitNetwork(resnet50(101), "resnet50")
        streams = {stream: torch.empty(1, 1, channels, 224, 224) for stream, channels in CHANNELS.items()}
    return EarlyExitNetworks(networks), streams


# Of ResKD, as printed; by its convention and as multiply-adds alone, in giga, derived.
RESNET50 = [
    (224, 16, "65.9", 65.92, 65.40),
    (144, 16, "28.3", 28.35, 28.13),
    (112, 16, "17.4", 17.35, 17.22),
    (96, 16, "12.1", 12.11, 12.02),
    (72, 16, "8.3", 8.30, 8.24),
    (56, 16, "4.8", 4.79, 4.76),
    (112, 8, "8.7", 8.68, 8.61),
]


@pytest.mark.parametrize(("side", "num_frames", "printed", "paper", "multiply_adds"), RESNET50)
def test_reproduces_the_table_of_reskd(
    side: int, num_frames: int, printed: str, paper: float, multiply_adds: float
) -> None:
    with torch.device("meta"):
        network = resnet50(200)
    cost = giga(network, num_frames, side, "paper")
    assert f"{cost:.1f}" == printed
    assert cost == pytest.approx(paper, abs=0.005)
    assert giga(network, num_frames, side, "multiply_adds") == pytest.approx(multiply_adds, abs=0.005)


def test_reproduces_temporal_shift_of_reskd() -> None:
    """Something-Something V2: the one row that is printed as multiply-adds. Shifting costs nothing."""
    with torch.device("meta"):
        network, usual = tsm_resnet50(174), resnet50(174)
    assert f"{giga(network, 8, 224, 'multiply_adds'):.1f}" == "32.7"
    assert giga(network, 8, 224, "paper") == pytest.approx(32.96, abs=0.005)
    assert giga(network, 8, 224, "paper") == giga(usual, 8, 224, "paper")


# Kinetics-400, 30 views of 8 frames. At test the short side is that of the crop: 224 pixels, not 256.
@pytest.mark.parametrize(
    ("side", "printed", "paper", "multiply_adds"), [(224, "1260", 1260.1, 1252.2), (112, "332", 331.8, 329.8)]
)
def test_reproduces_slow_only_of_reskd(side: int, printed: str, paper: float, multiply_adds: float) -> None:
    with torch.device("meta"):
        network = slow_only_resnet50(400)
        cost = cost_of(network, torch.empty(1, 8, 3, side, side))
    assert f"{30 * giga(network, 8, side, 'paper'):.0f}" == printed
    assert 30 * giga(network, 8, side, "paper") == pytest.approx(paper, abs=0.05)
    assert 30 * giga(network, 8, side, "multiply_adds") == pytest.approx(multiply_adds, abs=0.05)
    assert cost.modules["fc"] == 2048 * 400  # once for all frames
    assert not cost.uncounted


@pytest.mark.parametrize(
    ("build", "strides", "sides"),
    [
        (resnet50, (1, 1, 2, 2), {112: 55.1, 144: 91.0, 96: 40.5, 72: 23.9, 56: 14.6, 224: 220.2}),
        (resnet152, (1, 2, 2, 2), {224: 185.3, 112: 47.2}),
    ],
    ids=["R50-S", "R152"],
)
def test_reproduces_the_other_networks_of_reskd(
    build: Callable[..., ResNet], strides: tuple[int, ...], sides: dict[int, float]
) -> None:
    with torch.device("meta"):
        network = build(200, strides=strides)
    assert {side: round(giga(network, 16, side, "paper"), 1) for side in sides} == sides


def swin_giga(name: str, num_frames: int, side: int, convention: Convention) -> float:
    with torch.device("meta"):
        network = getattr(all_networks, name)(400)
        cost = cost_of(network, torch.empty(1, num_frames, 3, side, side), convention=convention)
    assert not cost.uncounted
    assert cost.modules["head"] == network.head.weight.numel()  # once a clip
    return cost.total / 1e9


@pytest.mark.parametrize(("side", "paper", "with_attention"), [(224, 1639.2, 1988.2), (112, 420.8, 506.5)])
def test_reproduces_the_transformers_of_reskd(side: int, paper: float, with_attention: float) -> None:
    views = 12
    assert views * swin_giga("video_swin_s", 32, side, "paper") == pytest.approx(paper, abs=0.05)
    assert views * swin_giga("video_swin_s", 32, side, "with_attention") == pytest.approx(with_attention, abs=0.05)


@pytest.mark.parametrize(
    ("name", "published"), [("video_swin_t", 43.88), ("video_swin_s", 82.84), ("video_swin_b", 140.67)]
)
def test_transformers_cost_what_torchvision_lists(name: str, published: float) -> None:
    assert swin_giga(name, 16, 224, "with_attention") == pytest.approx(published, abs=0.005)


def test_reproduces_the_exits_of_pkd() -> None:
    networks, streams = papers_networks()
    cost = cost_of(networks, streams)
    reached = {name: cost.to_exit(name) / 1e9 for name in networks.exit_names}
    residual, mv, iframe = list(reached.values())[:4], list(reached.values())[4:8], list(reached.values())[8:]
    assert residual == pytest.approx([1.12, 1.65, 2.18, 2.59], abs=0.005)
    assert mv == pytest.approx([1.08, 1.61, 2.14, 2.55], abs=0.005)
    # The public code's figures for I-frames count each normalised element twice beside.
    norms = normalised_by_exit(networks.networks["iframe"], streams["iframe"])
    with_norms = [value + 2 * norm / 1e9 for value, norm in zip(iframe, norms, strict=True)]
    assert with_norms == pytest.approx([1.26, 3.22, 6.54, 7.35], abs=0.005)
    assert sum(cost.exits.values()) == cost.total


def test_reproduces_team_net() -> None:
    """A clip of 8 segments; nothing of it goes uncounted."""
    with torch.device("meta"):
        network = TeamNet(tsm_resnet50(101), tsm_resnet18(101, 2, input_norm=True), tsm_resnet18(101, input_norm=True))
        clip = torch.empty(1, 8, 8, 224, 224)
    cost = cost_of(network, clip)
    assert cost.total / 1e9 == pytest.approx(61.42, abs=0.005)
    assert cost.total == by_torch(network, clip)
    assert cost.modules["teams.stem.excite"] == 8 * 48 * 192
    assert cost.modules["teams.stem.spatial"] == 8 * 56**2 * 9 * 3 * 3
    assert not cost.uncounted


def test_reproduces_the_exits_of_pkd_on_team_net() -> None:
    with torch.device("meta"):
        backbone = TeamNet(tsm_resnet50(101), tsm_resnet18(101, 2, input_norm=True), tsm_resnet18(101, input_norm=True))
        network, clip = EarlyExitNetwork(backbone, "team_net"), torch.empty(1, 8, 8, 224, 224)
    cost = cost_of(network, clip)
    reached = [cost.to_exit(name) / 1e9 for name in network.exit_names]
    assert reached == pytest.approx([2.52, 15.26, 30.06, 61.42], abs=0.005)
    squeezes = 8 * (192 * 48 + 384 * 96 + 768 * 192)  # once for a classifier, once for the module
    assert cost.total == cost_of(backbone, clip).total + squeezes + 101 * (384 + 768 + 1536)
    assert sum(cost.exits.values()) == cost.total


def normalised_by_exit(network: nn.Module, clip: Tensor) -> list[int]:
    """Outputs of all BatchNorms up to each exit, counted by hooks."""
    count, reached = [0], []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, out: count.append(out.numel()))
    for _ in network.eval().exits(clip):
        reached.append(sum(count))
    return reached


def test_exits_together_are_what_torch_counts_for_one_pass() -> None:
    networks, streams = papers_networks()
    assert cost_of(networks, streams).total == by_torch(networks, streams)
    network = networks.networks["mv"]
    assert cost_of(network, streams["mv"]).total == by_torch(network, streams["mv"])


def test_modules_are_told_apart() -> None:
    network = EarlyExitNetwork(resnet10(5, 2, width=8, input_norm=True)).eval()
    cost = cost_of(network, torch.zeros(2, 3, 2, 64, 64))
    frames = 2 * 3
    assert cost.modules["backbone.conv1"] == frames * 32**2 * 8 * 2 * 49
    assert cost.modules["backbone.layer1.0.conv1"] == frames * 16**2 * 8 * 8 * 9
    assert cost.within("backbone.layer2") == frames * 8**2 * (16 * 8 * 9 + 16 * 16 * 9 + 16 * 8)
    assert cost.within("classifiers.layer2") == frames * (8**2 * 16 * 16 * 9 + 16 * 16 * 5)
    assert cost.modules["backbone.fc"] == frames * 64 * 5
    assert cost.within("backbone") + cost.within("classifiers") == cost.total
    assert cost.exits["layer2"] == cost.within("backbone.layer2") + cost.within("classifiers.layer2")


class Everything(nn.Module):
    """One of each kind of work, each through a function or a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), groups=2, bias=True)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.table = nn.Parameter(torch.randn(5, 6))
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, clip: Tensor) -> Tensor:
        maps = F.max_pool3d(self.conv(clip).relu(), (1, 2, 2))
        tokens = self.norm(maps.flatten(2).transpose(1, 2)) * self.scale
        tokens = F.gelu(tokens + self.attention(tokens, tokens, tokens)[0])
        return torch.einsum("blc,kc->bkl", tokens, self.table).mean((1, 2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inference", [False, True])
def test_every_convention_by_hand(device: str, inference: bool) -> None:
    with torch.device(device):
        network, clip = Everything(), torch.zeros(2, 4, 3, 9, 9)
    conv, tokens = 2 * 6 * 3 * 4 * 4, 2 * 12  # outputs of the convolution; tokens after pooling to (3, 2, 2)
    weights = conv * (4 // 2) * 9 + tokens * 6 * 6 * 4 + tokens * 6 * 5
    attention = 2 * 12 * 12 * 6 * 2
    others = conv + 2 * tokens * 6 + conv + conv + 2 * 5 * 12  # bias, LayerNorm, ReLU, two pools
    expected = {"multiply_adds": weights, "with_attention": weights + attention, "paper": weights + others}
    with torch.inference_mode(inference):
        costs = {convention: cost_of(network, clip, convention=convention) for convention in expected}
    assert {convention: cost.total for convention, cost in costs.items()} == expected
    assert not any(cost.uncounted for cost in costs.values())
    assert costs["with_attention"].within("attention") == tokens * 6 * 6 * 4 + attention
    if device == "meta":  # elsewhere torch does not know the kernel that einsum and attention run in
        assert costs["with_attention"].total == by_torch(network, clip)


def test_transposed_convolutions_equal_torchs_count() -> None:
    network = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    maps = torch.zeros(2, 4, 7, 7)
    assert cost_of(network, maps).total == by_torch(network, maps) == 2 * 4 * 7 * 7 * 3 * 9


def test_fused_attention_is_two_products() -> None:
    class Attention(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value)

    inputs = torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 5, 8)
    assert cost_of(Attention(), *inputs).total == 0
    assert cost_of(Attention(), *inputs, convention="with_attention").total == 2 * 3 * 7 * 5 * (8 + 8)


def test_what_is_not_known_is_named() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.randn(8))
            self.fc = nn.Linear(8, 3)

        def forward(self, signal: Tensor) -> Tensor:
            return self.fc(signal * torch.fft.fft(2 * self.filter).abs())

    network = nn.Sequential(nn.Identity(), Spectral())
    cost = cost_of(network, torch.zeros(2, 8))
    assert cost.total == 2 * 8 * 3
    assert list(cost.uncounted) == ["aten._fft_r2c in 1"]
    assert "NOT COUNTED" in str(cost)
    assert "_fft_r2c" in str(cost)


def test_the_network_is_left_as_it_was() -> None:
    network = resnet10(4, width=8).train()
    network.layer2.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    cost_of(network, torch.randn(2, 2, 3, 32, 32))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="expected clips"):
        cost_of(network, torch.randn(2, 3, 32, 32))
    assert [module.training for module in network.modules()] == modes
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_table_adds_up() -> None:
    network = EarlyExitNetwork(resnet10(5, 2, width=8))
    cost = cost_of(network, torch.zeros(2, 3, 2, 112, 112), convention="paper")
    for depth in (1, 2, 3):
        modules, exits = cost.table(depth).split("\n\n")
        _, *rows, total = [line.split() for line in modules.splitlines()]
        assert sum(float(row[1].replace(",", "")) for row in rows) == pytest.approx(
            float(total[1]), abs=0.01 * len(rows)
        )
        assert float(total[1]) == pytest.approx(cost.total / 1e6, abs=0.005)
        assert [line.split()[0] for line in exits.splitlines()[1:]] == list(network.exit_names)
    assert exits.splitlines()[-1].split()[-1] == total[1]


def test_other_conventions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected `convention` of \['multiply_adds', .*came 'flops'"):
        cost_of(nn.Linear(2, 2), torch.zeros(1, 2), convention="flops")  # type: ignore[arg-type]
