"""SlowOnly against 3-D convolutions throughout, and against the 2-D network that it is inflated from."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.checkpoints import build_network
from lightning_modules.networks import (
    EarlyExitNetwork,
    SlowOnlyResNet,
    load_weights,
    resnet50,
    slow_only_resnet50,
)
from lightning_modules.networks.resnet import Bottleneck

DEPTHS = (3, 4, 6, 3)
INFLATED = [f"layer{stage}.{index}.conv1.weight" for stage in (3, 4) for index in range(DEPTHS[stage - 1])]


def small(**options: object) -> SlowOnlyResNet:
    torch.manual_seed(0)
    network = slow_only_resnet50(5, width=8, **options).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    return network


def convolved_in_3d(state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """Clips (B, T, C, H, W) -> logits, every convolution, norm and pool in 3-D, on the weights' names alone."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        weight = weight if weight.ndim == 5 else weight.unsqueeze(2)
        padding = [side // 2 for side in weight.shape[2:]]
        x = F.conv3d(x, weight, stride=(1, stride, stride), padding=padding)
        return F.batch_norm(x, *(state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.max_pool3d(conv_bn(clip.transpose(1, 2), "conv1", "bn1", 2).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, depth in enumerate(DEPTHS, 1):
        for index in range(depth):
            block, shortcut = f"layer{stage}.{index}.", x
            stride = 2 if stage > 1 and index == 0 else 1
            if index == 0:
                shortcut = conv_bn(x, block + "downsample.0", block + "downsample.1", stride)
            x = conv_bn(x, block + "conv1", block + "bn1").relu()
            x = conv_bn(x, block + "conv2", block + "bn2", stride).relu()
            x = (conv_bn(x, block + "conv3", block + "bn3") + shortcut).relu()
    return x.mean(dim=(2, 3, 4)) @ state["fc.weight"].T + state["fc.bias"]


def test_equals_3d_convolutions_throughout() -> None:
    network = small()
    clip = torch.randn(2, 5, 3, 40, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), convolved_in_3d(network.state_dict(), clip))


def test_kernels_of_the_deep_stages_are_3x1x1() -> None:
    with torch.device("meta"):
        usual, slow = resnet50(400), slow_only_resnet50(400)
    shapes = {name: value.shape for name, value in slow.state_dict().items()}
    assert list(shapes) == list(usual.state_dict())
    changed = {name: shapes[name] for name, value in usual.state_dict().items() if shapes[name] != value.shape}
    assert list(changed) == INFLATED
    assert changed["layer3.0.conv1.weight"] == (256, 512, 3, 1, 1)
    assert sum(value.numel() for value in slow.parameters()) == 32_454_096  # of mmaction2's table: 32.45 M


def test_inflated_it_sees_in_a_still_what_the_2d_network_sees(tmp_path: Path) -> None:
    torch.manual_seed(2)
    still = torch.randn(1, 1, 3, 32, 32, dtype=torch.float64)
    usual, slow = resnet50(5, width=8).double().eval(), small()
    torch.save(usual.state_dict(), tmp_path / "2d.pth")
    load_weights(slow, str(tmp_path / "2d.pth"))
    with torch.no_grad():
        expected = usual.frame_logits(still)[:, 0]
        logits = slow.frame_logits(still.expand(1, 21, 3, 32, 32))[0]
    reach = len(INFLATED)  # zeros beyond the clip's ends come one frame further with each convolution
    torch.testing.assert_close(logits[reach:-reach], expected.expand(21 - 2 * reach, 5), rtol=1e-10, atol=1e-12)
    assert (logits[[reach - 1, -reach]] - expected).abs().amin() > 1e-9  # faint: each takes a third of it
    assert (logits[[0, -1]] - expected).abs().amin() > 1e-3


def test_2d_weights_are_inflated_and_reported(tmp_path: Path) -> None:
    state = resnet50(5, width=8).state_dict()
    torch.save(state, tmp_path / "2d.pth")
    network = slow_only_resnet50(5, width=8)
    report = load_weights(network, str(tmp_path / "2d.pth"))
    assert report.adapted == INFLATED
    assert sorted([*report.loaded, *report.adapted]) == sorted(state)
    assert [*report.missing, *report.unexpected, *report.mismatched] == []
    weight = network.layer3[0].conv1.weight
    assert weight.shape == (32, 64, 3, 1, 1)
    for time in range(3):
        torch.testing.assert_close(weight[:, :, time], state["layer3.0.conv1.weight"] / 3)


def test_3d_weights_load_as_they_are(tmp_path: Path) -> None:
    """Its own, and those of code that keeps 1xkxk kernels in 3-D."""
    theirs = small().float()
    state = theirs.state_dict()
    in_3d = {name: value.unsqueeze(2) if value.ndim == 4 else value for name, value in state.items()}
    for weights in (state, in_3d):
        torch.save(weights, tmp_path / "3d.pth")
        network = slow_only_resnet50(5, width=8)
        assert load_weights(network, str(tmp_path / "3d.pth")).exact
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_3d_kernels_do_not_fit_a_2d_network(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "3d.pth")
    report = load_weights(resnet50(5, width=8), str(tmp_path / "3d.pth"))
    assert [entry.split()[0] for entry in report.mismatched] == INFLATED


def test_a_clip_is_classified_once_and_as_the_mean_of_its_frames() -> None:
    network, seen = small(), []
    network.fc.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    clip = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(clip), network.frame_logits(clip).mean(1))
    assert seen == [(2, 1, 256), (2, 3, 256)]


def test_dropout_drops_a_feature_from_all_frames_in_training() -> None:
    network = small(dropout=0.5).train()
    network.fc = nn.Identity()
    kept = network.forward_head(torch.ones(2, 3, 256, 2, 2, dtype=torch.float64))
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert set(kept.unique().tolist()) == {0, 2}
    assert not torch.equal(kept[0], kept[1])


def test_feature_info_describes_the_features_and_all_frames_are_kept() -> None:
    network = small()
    features = network.forward_features(torch.randn(2, 3, 3, 48, 64, dtype=torch.float64))
    assert list(features) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    for info in network.feature_info:
        sides = [-(-side // info.reduction) for side in (48, 64)]
        assert features[info.name].shape == (2, 3, info.channels, *sides)


def test_a_config_builds_it_and_it_has_exits() -> None:
    init_args = {"num_classes": 4, "in_channels": 2, "width": 8, "strides": [1, 1, 2, 2], "input_norm": True}
    backbone = build_network({"class_path": "lightning_modules.networks.slow_only_resnet50", "init_args": init_args})
    assert isinstance(backbone, SlowOnlyResNet)
    assert [info.reduction for info in backbone.feature_info] == [4, 4, 4, 8, 16]
    clip = torch.randn(2, 3, 2, 32, 32)
    assert torch.equal(EarlyExitNetwork(backbone).eval()(clip)[:, -1], backbone(clip))


@pytest.mark.parametrize("shape", [(0, 3, 3, 32, 32), (1, 1, 3, 32, 32)])
def test_small_batches(shape: tuple[int, ...]) -> None:
    assert small()(torch.zeros(shape, dtype=torch.float64)).shape == (shape[0], 5)


def test_exports() -> None:
    network = SlowOnlyResNet(Bottleneck, (1, 1, 1, 1), 4, width=8).eval()
    clip = torch.randn(1, 3, 3, 32, 32)
    exported = torch.export.export(network, (clip,)).module()
    torch.testing.assert_close(exported(clip), network(clip))
