"""ResNets against torchvision's published figures, a functional forward pass, and torchvision where it imports."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules import networks
from lightning_modules.checkpoints import build_network
from lightning_modules.networks import ResNet, resnet10, resnet18, resnet50

# Parameters with 1000 classes, as torchvision's documentation lists them.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}


def build(name: str, *args: int, **options: object) -> ResNet:
    return getattr(networks, name)(*args, **options)


def randomise_norms(network: nn.Module) -> None:
    """Give BatchNorm weights and statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)


def functional_resnet(state: dict[str, Tensor], images: Tensor, depths: tuple[int, ...]) -> Tensor:
    """Images (N, C, H, W) -> logits, written from the paper on the weights' names alone."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = [state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm)

    if "input_bn.weight" in state:
        norm = [state[f"input_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        images = F.batch_norm(images, *norm)
    x = F.max_pool2d(conv_bn(images, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            block = f"layer{stage}.{index}."
            stride = 2 if stage > 1 and index == 0 else 1
            shortcut = x
            if block + "downsample.0.weight" in state:
                shortcut = conv_bn(x, block + "downsample.0", block + "downsample.1", stride)
            if block + "conv3.weight" in state:  # the stride is in the 3x3 convolution
                x = conv_bn(x, block + "conv1", block + "bn1").relu()
                x = conv_bn(x, block + "conv2", block + "bn2", stride).relu()
                x = conv_bn(x, block + "conv3", block + "bn3")
            else:
                x = conv_bn(x, block + "conv1", block + "bn1", stride).relu()
                x = conv_bn(x, block + "conv2", block + "bn2")
            x = (x + shortcut).relu()
    return x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_totals_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_and_shapes_are_those_of_published_weights(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in build(name, 1000).state_dict().items()}
    assert len(shapes) == {"resnet18": 122, "resnet50": 320}[name]
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.num_batches_tracked"] == ()
    last = {"resnet18": "layer4.1.conv2.weight", "resnet50": "layer4.2.conv2.weight"}[name]
    assert shapes[last] == (512, 512, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == {"resnet18": (128, 64, 1, 1), "resnet50": (512, 256, 1, 1)}[name]
    assert ("layer1.0.downsample.0.weight" in shapes) == (name == "resnet50")
    assert shapes["fc.weight"] == (1000, {"resnet18": 512, "resnet50": 2048}[name])


@pytest.mark.parametrize("name", PARAMETERS)
def test_outputs_equal_a_functional_forward_pass(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 7, 5, width=8, input_norm=True).double().eval()
    randomise_norms(network)
    clip = torch.randn(2, 3, 5, 40, 56, dtype=torch.float64)
    expected = functional_resnet(network.state_dict(), clip.flatten(0, 1), DEPTHS[name]).unflatten(0, (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network.frame_logits(clip), expected)
        torch.testing.assert_close(network(clip), expected.mean(dim=1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_equal_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed beside this torch")
    theirs = getattr(models, name)(num_classes=5).eval()
    randomise_norms(theirs)
    ours = build(name, 5).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images.unsqueeze(1)), theirs(images))


def test_convolutions_start_from_he_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    weight = resnet18(10).layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_the_classifier_starts_as_a_config_says() -> None:
    torch.manual_seed(0)
    fc = resnet10(200, fc_std=0.001).fc
    assert fc.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not fc.bias.any()
    # Uniform within 1 / sqrt(512), by default.
    assert resnet10(200).fc.weight.std().item() == pytest.approx((512 * 3) ** -0.5, rel=0.01)


def test_consensus_ignores_the_order_of_frames_and_keeps_videos_apart() -> None:
    torch.manual_seed(0)
    network = resnet10(4, 2, width=8).double().eval()
    clip = torch.randn(3, 4, 2, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        logits = network(clip)
        torch.testing.assert_close(network(clip[:, [2, 0, 3, 1]]), logits)
        torch.testing.assert_close(network(clip[[2, 0, 1]]), logits[[2, 0, 1]])
        torch.testing.assert_close(network(clip[1:2]), logits[1:2])


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
@pytest.mark.parametrize("size", [(32, 32), (56, 72)])
def test_feature_info_describes_the_features(name: str, size: tuple[int, int]) -> None:
    network = build(name, 4, 2, width=8).eval()
    clip = torch.randn(2, 3, 2, *size)
    features = network.forward_features(clip)
    assert [info.name for info in network.feature_info] == list(features)
    for info in network.feature_info:
        sides = [-(-side // info.reduction) for side in size]
        assert features[info.name].shape == (2, 3, info.channels, *sides)
    torch.testing.assert_close(network.forward_head(features["layer4"]).mean(1), network(clip))


def test_strides_change_the_maps_and_not_the_weights() -> None:
    usual, fine = resnet10(4, width=8).eval(), resnet10(4, width=8, strides=(1, 1, 2, 2)).eval()
    fine.load_state_dict(usual.state_dict())
    assert [info.reduction for info in fine.feature_info] == [4, 4, 4, 8, 16]
    features = fine.forward_features(torch.zeros(1, 1, 3, 64, 64))
    assert [maps.shape[-1] for maps in features.values()] == [16, 16, 16, 8, 4]


def test_a_config_chooses_strides() -> None:
    init_args = {"num_classes": 4, "width": 8, "strides": [1, 1, 2, 2]}
    network = build_network({"class_path": "lightning_modules.networks.resnet50", "init_args": init_args})
    assert [info.reduction for info in network.feature_info] == [4, 4, 4, 8, 16]


def test_an_empty_batch_gives_no_logits() -> None:
    assert resnet10(4, width=8).eval()(torch.zeros(0, 3, 3, 32, 32)).shape == (0, 4)


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = resnet50(11, 5, input_norm=True).eval()
        assert network(torch.empty(2, 3, 5, 224, 224)).shape == (2, 11)


def test_dropout_acts_in_training_only() -> None:
    network = resnet10(4, width=8, dropout=0.5)
    features = torch.rand(1, 1, 64, 2, 2) + 1
    assert not torch.equal(network.forward_head(features), network.forward_head(features))
    network.eval()
    assert torch.equal(network.forward_head(features), network.forward_head(features))


@pytest.mark.parametrize("shape", [(2, 3, 3, 32, 32), (6, 2, 32, 32)])
def test_other_shapes_are_refused_with_what_was_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected clips of shape \(B, T, 2, H, W\), came \(.*in_channels"):
        resnet10(4, 2, width=8)(torch.zeros(shape))


def test_exports() -> None:
    network = resnet10(4, 2, width=8).eval()
    clip = torch.randn(1, 2, 2, 32, 32)
    exported = torch.export.export(network, (clip,)).module()
    torch.testing.assert_close(exported(clip), network(clip))
