"""Video Swin against torchvision's documented layout and figures, a functional forward pass, and torchvision itself."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules import networks
from lightning_modules.checkpoints import build_network
from lightning_modules.networks import EarlyExitNetwork, VideoSwin, load_weights
from lightning_modules.networks.video_swin import StochasticDepth

# Parameters with 400 classes, as torchvision's documentation lists them; channels, depths and heads of the paper.
NETWORKS = {
    "video_swin_t": (28_158_070, 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "video_swin_s": (49_816_678, 96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "video_swin_b": (88_048_984, 128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


def tiny(num_classes: int = 5, in_channels: int = 3, **options: object) -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(8, (2, 3), (1, 2), num_classes, in_channels, window_size=(2, 3, 2), **options)


def randomise(network: VideoSwin) -> VideoSwin:
    """Weights large enough for every part to matter."""
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return network


def documented_layout(
    channels: int, depths: tuple[int, ...], heads: tuple[int, ...], num_classes: int, window: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the state dict of torchvision's ``swin3d_*``."""
    tokens = window[0] * window[1] * window[2]
    offsets = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (channels, 3, 2, 4, 4),
        "patch_embed.proj.bias": (channels,),
        "patch_embed.norm.weight": (channels,),
        "patch_embed.norm.bias": (channels,),
    }
    for stage, (depth, num_heads) in enumerate(zip(depths, heads, strict=True)):
        c = channels * 2**stage
        if stage:
            merging = f"features.{2 * stage - 1}"
            shapes[f"{merging}.reduction.weight"] = (c, 2 * c)
            shapes[f"{merging}.norm.weight"] = shapes[f"{merging}.norm.bias"] = (2 * c,)
        for index in range(depth):
            block = f"features.{2 * stage}.{index}"
            for norm in ("norm1", "norm2"):
                shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (c,)
            shapes[f"{block}.attn.relative_position_bias_table"] = (offsets, num_heads)
            shapes[f"{block}.attn.relative_position_index"] = (tokens, tokens)
            linear = {"attn.qkv": (3 * c, c), "attn.proj": (c, c), "mlp.0": (4 * c, c), "mlp.3": (c, 4 * c)}
            for name, shape in linear.items():
                shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = shape, shape[:1]
    shapes["norm.weight"] = shapes["norm.bias"] = (c,)
    shapes["head.weight"], shapes["head.bias"] = (num_classes, c), (num_classes,)
    return shapes


def functional_swin(network: VideoSwin, clip: Tensor) -> Tensor:
    """Clips (B, T, C, H, W) of even T -> logits; on the weights' names, attention alone by its module."""
    state = network.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    clip = F.pad(clip, (0, -clip.shape[-1] % 4, 0, -clip.shape[-2] % 4))
    patches = clip.unfold(1, 2, 2).unfold(3, 4, 4).unfold(4, 4, 4)  # (B, T / 2, C, H / 4, W / 4, 2, 4, 4)
    x = torch.einsum("btchwijk,ocijk->bthwo", patches, state["patch_embed.proj.weight"])
    x = norm(x + state["patch_embed.proj.bias"], "patch_embed.norm")
    for index, part in enumerate(network.features):
        if index % 2:
            x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
            corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = linear(norm(torch.cat(corners, -1), f"features.{index}.norm"), f"features.{index}.reduction")
            continue
        for number in range(len(part)):
            block = f"features.{index}.{number}"
            x = x + part[number].attn(norm(x, f"{block}.norm1"))
            hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.0")
            x = x + linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, f"{block}.mlp.3")
    return linear(norm(x, "norm").mean((1, 2, 3)), "head")


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_totals_are_those_of_published_weights(name: str) -> None:
    total, *sizes = NETWORKS[name]
    with torch.device("meta"):
        network = getattr(networks, name)(400)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes == documented_layout(*sizes, 400, (8, 7, 7))
    assert sum(parameter.numel() for parameter in network.parameters()) == total


def test_every_second_block_shifts_by_half_a_window() -> None:
    with torch.device("meta"):
        network = networks.video_swin_t(5)
    for stage, depth in zip(network.features[::2], (2, 2, 6, 2), strict=True):
        assert [block.attn.shift for block in stage] == [(0, 0, 0), (4, 3, 3)] * (depth // 2)


def test_published_weights_load_without_a_remainder(tmp_path: Path) -> None:
    layout = documented_layout(8, (2, 3), (1, 2), 5, (2, 3, 2))
    weights = {name: torch.rand(shape) for name, shape in layout.items()}
    torch.save(weights, tmp_path / "swin.pth")
    network = tiny()
    assert load_weights(network, str(tmp_path / "swin.pth")).exact
    assert torch.equal(network.features[2][2].attn.qkv.weight, weights["features.2.2.attn.qkv.weight"])
    report = load_weights(tiny(num_classes=7, in_channels=2), str(tmp_path / "swin.pth"))
    assert report.adapted == ["patch_embed.proj.weight"]
    assert [name.split()[0] for name in report.mismatched] == ["head.weight", "head.bias"]
    assert not report.missing
    assert not report.unexpected


@pytest.mark.parametrize("size", [(32, 48), (26, 33), (8, 5)])
def test_outputs_equal_a_functional_forward_pass(size: tuple[int, int]) -> None:
    network = randomise(tiny(in_channels=2)).double().eval()
    clip = torch.randn(2, 6, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), functional_swin(network, clip))
        # Clips are filled up with black frames.
        filled = torch.cat([clip[:, :5], torch.zeros_like(clip[:, :1])], dim=1)
        torch.testing.assert_close(network(clip[:, :5]), functional_swin(network, filled))


@pytest.mark.parametrize("shape", [(32, 224, 224), (32, 112, 112), (5, 90, 50)])
def test_outputs_equal_torchvision(shape: tuple[int, int, int]) -> None:
    video = pytest.importorskip("torchvision.models.video", reason="torchvision is not installed beside this torch")
    theirs = video.swin3d_t(num_classes=5).eval()
    ours = networks.video_swin_t(5).eval()
    ours.load_state_dict(theirs.state_dict())
    clip = torch.randn(1, shape[0], 3, *shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip.transpose(1, 2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("num_frames", "size"), [(4, (64, 64)), (5, (56, 72)), (1, (4, 4))])
def test_feature_info_describes_the_features(num_frames: int, size: tuple[int, int]) -> None:
    network = VideoSwin(4, (1, 1, 1, 1), (1, 1, 2, 2), 5).eval()
    clip = torch.randn(2, num_frames, 3, *size)
    features = network.forward_features(clip)
    assert list(features) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert [info.reduction for info in network.feature_info] == [4, 4, 8, 16, 32]
    for info in network.feature_info:
        sides = [-(-side // info.reduction) for side in size]
        assert features[info.name].shape == (2, (num_frames + 1) // 2, info.channels, *sides)
    logits = network.forward_head(features["stage4"])
    assert logits.shape == (2, (num_frames + 1) // 2, 5)
    torch.testing.assert_close(logits.mean(1), network(clip))


def test_the_last_map_is_normalised_and_every_position_can_be_classified() -> None:
    network = tiny().eval()
    maps = network.forward_features(torch.randn(2, 4, 3, 40, 24))["stage2"]
    torch.testing.assert_close(maps.mean(2), torch.zeros(2, 2, 5, 3), atol=1e-6, rtol=0)
    positions = maps.permute(0, 1, 3, 4, 2).flatten(1, 3)[..., None, None]  # (B, T h w, channels, 1, 1)
    by_position = network.forward_head(positions).unflatten(1, (2, 5, 3))
    torch.testing.assert_close(by_position.mean((2, 3)), network.forward_head(maps))


def test_early_exits_run_through_the_stages() -> None:
    network = EarlyExitNetwork(VideoSwin(4, (1, 1, 1, 1), (1, 1, 2, 2), 5), "linear").eval()
    clip = torch.randn(3, 4, 3, 32, 32)
    assert network.exit_names == ("stage1", "stage2", "stage3", "final")
    torch.testing.assert_close(network(clip)[:, -1], network.backbone(clip))
    run = network.exits(clip)
    next(run)
    run.keep(torch.tensor([], dtype=torch.int64))
    assert [logits.shape for _, logits in run] == [(0, 5)] * 3


@pytest.mark.parametrize("num_frames", [6, 2])
def test_checkpointing_keeps_the_gradients(num_frames: int) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        options = {"stochastic_depth": 0.5, "dropout": 0.5}
        network = randomise(tiny(gradient_checkpointing=checkpointing, **options)).double().train()
        hidden = network.features[2][1].mlp[0]
        hidden.register_forward_hook(lambda *_, checkpointing=checkpointing: calls.append(checkpointing))
        torch.manual_seed(1)
        clip = torch.randn(4, num_frames, 3, 24, 32, dtype=torch.float64, requires_grad=True)
        network(clip).square().sum().backward()
        gradients.append([clip.grad, *(parameter.grad for parameter in network.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert calls == [False, True, True]


def test_stochastic_depth_drops_whole_clips_in_training() -> None:
    torch.manual_seed(0)
    drop, branch = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    scales = drop(branch).flatten(1)
    assert torch.equal(scales.amin(1), scales.amax(1))
    assert scales.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (scales[:, 0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)


@pytest.mark.parametrize(("name", "last"), [("video_swin_t", 0.1), ("video_swin_s", 0.2), ("video_swin_b", 0.3)])
def test_stochastic_depth_grows_to_the_papers(name: str, last: float) -> None:
    with torch.device("meta"):
        network = getattr(networks, name)(5)
    found = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    count = sum(NETWORKS[name][2])
    assert found == pytest.approx([last * index / (count - 1) for index in range(count)])


def test_dropout_drops_a_feature_from_all_frames_in_training() -> None:
    network = tiny(num_classes=16, dropout=0.5)
    nn.init.eye_(network.head.weight)
    features = torch.ones(3, 4, 16, 2, 2)
    logits = network.forward_head(features)
    assert set(logits.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(logits, logits[:, :1].expand_as(logits))
    assert torch.equal(network.eval().forward_head(features), torch.ones(3, 4, 16))


def test_linear_layers_start_from_a_truncated_normal() -> None:
    network = VideoSwin(64, (1,), (2,), 5)
    for weight in (network.features[0][0].mlp[0].weight, network.features[0][0].attn.relative_position_bias_table):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.features[0][0].attn.qkv.bias.any()


def test_clips_do_not_meet_and_other_precisions_are_near() -> None:
    network = randomise(tiny()).eval()
    clips = torch.randn(3, 6, 3, 24, 32)
    with torch.no_grad():
        logits = network(clips)
        torch.testing.assert_close(network(clips[[2, 0]]), logits[[2, 0]])
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(network(clips).float(), logits, atol=0.1, rtol=0.1)


def test_an_empty_batch_gives_no_logits() -> None:
    assert tiny().eval()(torch.zeros(0, 3, 3, 32, 32)).shape == (0, 5)


def test_builds_from_a_config() -> None:
    options = {"num_classes": 5, "in_channels": 2, "dropout": 0.5, "gradient_checkpointing": True}
    with torch.device("meta"):
        network = build_network({"class_path": "lightning_modules.networks.video_swin_t", "init_args": options})
    assert network.dropout.p == 0.5
    assert network(torch.empty(1, 4, 2, 64, 64, device="meta")).shape == (1, 5)


@pytest.mark.parametrize("shape", [(2, 3, 3, 32, 32), (6, 2, 32, 32)])
def test_other_shapes_are_refused_with_what_was_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected clips of shape \(B, T, 2, H, W\), came \(.*in_channels"):
        tiny(in_channels=2)(torch.zeros(shape))


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`depths` and `num_heads` of one number of stages, came \[2, 2\] and \[3\]"):
        VideoSwin(8, (2, 2), (3,), 5)
    with pytest.raises(ValueError, match=r"`window_size`: expected sides along time, height and width, came \[7, 7\]"):
        VideoSwin(8, (2,), (2,), 5, window_size=(7, 7))
    with pytest.raises(ValueError, match=r"`num_heads`: expected a divisor of the 8 channels, came 3"):
        VideoSwin(8, (2,), (3,), 5)


def test_exports() -> None:
    network = randomise(tiny()).eval()
    clip = torch.randn(1, 5, 3, 32, 40)
    exported = torch.export.export(network, (clip,)).module()
    torch.testing.assert_close(exported(clip), network(clip))
