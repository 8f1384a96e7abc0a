"""Public checkpoints against stand-ins of the public networks: built, named and run as their code does."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks import (
    Backbone,
    VideoSwin,
    WeightReport,
    load_weights,
    resnet10,
    resnet50,
    slow_only_resnet50,
    tsm_resnet50,
    tsm_resnet101,
)
from lightning_modules.networks.public_names import translate

WIDTH, CLASSES = 8, 5
DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class ConvModule(nn.Module):
    """mmcv's: a convolution and its norm."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm3d(channels) if isinstance(conv, nn.Conv3d) else nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))


class Shifted(nn.Module):
    """TSM's wrapper of a convolution, written frame by frame; (T, C, h, w)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, maps: Tensor) -> Tensor:
        fold, out = maps.shape[1] // 8, maps.clone()
        for frame in range(len(maps)):
            following = maps[frame + 1] if frame + 1 < len(maps) else torch.zeros_like(maps[0])
            preceding = maps[frame - 1] if frame > 0 else torch.zeros_like(maps[0])
            out[frame, :fold] = following[:fold]
            out[frame, fold : 2 * fold] = preceding[fold : 2 * fold]
        return self.net(out)


def convolution(form: str, in_channels: int, channels: int, side: int, stride: int, length: int = 1) -> nn.Module:
    if form == "3d":
        kernel, padding = (length, side, side), (length // 2, side // 2, side // 2)
        return nn.Conv3d(in_channels, channels, kernel, (1, stride, stride), padding, bias=False)
    return nn.Conv2d(in_channels, channels, side, stride, side // 2, bias=False)


class PublicBottleneck(nn.Module):
    def __init__(self, form: str, in_channels: int, channels: int, stride: int, inflated: bool, shifted: bool) -> None:
        super().__init__()
        first = convolution(form, in_channels, channels, 1, 1, 3 if inflated else 1)
        self.conv1 = ConvModule(Shifted(first) if shifted else first, channels)
        self.conv2 = ConvModule(convolution(form, channels, channels, 3, stride), channels)
        self.conv3 = ConvModule(convolution(form, channels, 4 * channels, 1, 1), 4 * channels)
        self.downsample = None
        if stride != 1 or in_channels != 4 * channels:
            self.downsample = ConvModule(convolution(form, in_channels, 4 * channels, 1, stride), 4 * channels)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(maps).relu()).relu())
        return (out + (maps if self.downsample is None else self.downsample(maps))).relu()


class PublicBackbone(nn.Module):
    """mmaction2's ResNet, ResNetTSM or ResNet3dSlowOnly; (T, 3, H, W), or (1, 3, T, H, W) in 3-D, to the last maps."""

    def __init__(self, form: str, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(convolution(form, 3, width, 7, 2), width)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if form == "3d" else nn.MaxPool2d(3, 2, 1)
        in_channels, every = width, 2 if depths[2] >= 23 else 1
        for stage, depth in enumerate(depths, 1):
            blocks = nn.Sequential()
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                shifted = form == "tsm" and index % every == 0
                channels = width * 2 ** (stage - 1)
                blocks.append(
                    PublicBottleneck(form, in_channels, channels, stride, form == "3d" and stage >= 3, shifted)
                )
                in_channels = 4 * channels
            self.add_module(f"layer{stage}", blocks)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.maxpool(self.conv1(maps).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


class PublicHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(channels, CLASSES)


class PublicRecognizer(nn.Module):
    """mmaction2's recognizer: a backbone, and a classifier on the mean of its maps over time and space."""

    def __init__(self, form: str, depths: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.form = form
        self.backbone = PublicBackbone(form, depths, width)
        self.cls_head = PublicHead(32 * width)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, CLASSES)."""
        if self.form == "3d":
            pooled = self.backbone(clips.transpose(1, 2)).mean((2, 3, 4))
        else:
            pooled = torch.stack([self.backbone(clip).mean((0, 2, 3)) for clip in clips])
        return self.cls_head.fc_cls(pooled)


def randomised(network: nn.Module) -> nn.Module:
    """With norms that are not the identity, in float64, ready to run."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    return network.double().eval()


def load(network: Backbone, path: Path, state: dict[str, Tensor]) -> WeightReport:
    # CoViAR's are older than the zip format.
    torch.save({"meta": {"epoch": 50}, "state_dict": state}, path, _use_new_zipfile_serialization=path.suffix != ".tar")
    return load_weights(network.double().eval(), str(path))


def assert_complete(report: WeightReport, network: nn.Module) -> None:
    assert report.exact
    assert sorted(report.loaded) == sorted(network.state_dict())


FORMS = {
    "TSN": ("2d", "resnet50", resnet50),
    "TSM-50": ("tsm", "resnet50", tsm_resnet50),
    "TSM-101": ("tsm", "resnet101", tsm_resnet101),
    "SlowOnly": ("3d", "resnet50", slow_only_resnet50),
}


@pytest.mark.parametrize("name", FORMS)
def test_networks_of_mmaction2_load_whole_and_compute_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    form, depths, build = FORMS[name]
    theirs, ours = randomised(PublicRecognizer(form, DEPTHS[depths])), build(CLASSES, width=WIDTH)
    state = theirs.state_dict()
    report = load(ours, tmp_path / "theirs.pth", state)
    assert_complete(report, ours)
    assert len(report.translated) == len(state)
    assert "320 under names of a public code" in str(report) or name == "TSM-101"
    clips = torch.randn(2, 5, 3, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(clips), rtol=1e-10, atol=1e-10)


def test_names_of_mmaction2_are_as_its_checkpoints_have_them() -> None:
    """The stand-in's own truth: names that people see in messages about public checkpoints."""
    tsm = PublicRecognizer("tsm", DEPTHS["resnet50"]).state_dict()
    assert {
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.running_mean",
        "backbone.layer1.0.conv1.conv.net.weight",
        "backbone.layer1.0.conv1.bn.weight",
        "backbone.layer1.0.downsample.conv.weight",
        "backbone.layer1.0.downsample.bn.num_batches_tracked",
        "backbone.layer4.2.conv3.conv.weight",
        "cls_head.fc_cls.bias",
    } <= tsm.keys()
    with torch.device("meta"):
        slow = PublicRecognizer("3d", DEPTHS["resnet50"], 64).state_dict()
    assert slow["backbone.conv1.conv.weight"].shape == (64, 3, 1, 7, 7)
    assert slow["backbone.layer3.0.conv1.conv.weight"].shape == (256, 512, 3, 1, 1)


def test_of_reskd_the_student_is_taken_and_the_teacher_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = (randomised(PublicRecognizer("2d", DEPTHS["resnet50"])) for _ in range(2))
    state = {f"backbone.low_res_path.{name}": value for name, value in student.backbone.state_dict().items()}
    state |= {f"backbone.high_res_path.{name}": value for name, value in teacher.backbone.state_dict().items()}
    state |= {f"cls_head.fc_cls.{name}": value for name, value in student.cls_head.fc_cls.state_dict().items()}
    state |= {f"cls_head.fc_cls_t.{name}": value for name, value in teacher.cls_head.fc_cls.state_dict().items()}
    ours = resnet50(CLASSES, width=WIDTH)
    report = load(ours, tmp_path / "reskd.pth", state)
    assert_complete(report, ours)
    assert len(report.left_out) == 318 + 2
    assert "left out, of another network or made anew: backbone. (318), cls_head. (2)" in str(report)
    clips = torch.randn(1, 2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), student(clips), rtol=1e-10, atol=1e-10)


def coviars(network: nn.Module) -> dict[str, Tensor]:
    """A network's entries as CoViAR saves them: torchvision's network and a norm in a module in DataParallel."""
    state = network.state_dict()
    norm = {f"module.data_bn.{k.removeprefix('input_bn.')}": v for k, v in state.items() if k.startswith("input_bn.")}
    return norm | {f"module.base_model.{k}": v for k, v in state.items() if not k.startswith("input_bn.")}


@pytest.mark.parametrize(("in_channels", "input_norm"), [(3, False), (2, True)], ids=["iframe", "mv"])
def test_networks_of_coviar_load_whole(in_channels: int, input_norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomised(resnet10(CLASSES, in_channels, width=WIDTH, input_norm=input_norm))
    ours = resnet10(CLASSES, in_channels, width=WIDTH, input_norm=input_norm)
    assert_complete(load(ours, tmp_path / "coviar.pth.tar", coviars(theirs)), ours)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_coviars_network_of_residuals_is_turned_from_blue_green_red(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    theirs, ours = (resnet10(CLASSES, width=WIDTH, input_norm=True) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        report = load(ours, tmp_path / "residual.pth.tar", coviars(randomised(theirs)))
    assert sorted(report.adapted) == [
        "conv1.weight",
        *(f"input_bn.{part}" for part in ("bias", "running_mean", "running_var", "weight")),
    ]
    assert [*report.missing, *report.unexpected, *report.mismatched] == []
    assert "adapted (5): input_bn.weight" in caplog.text
    rgb = torch.randn(2, 3, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(rgb), theirs(rgb[:, :, [2, 1, 0]]), rtol=1e-10, atol=1e-10)


def test_networks_of_tsms_own_code_load_whole(tmp_path: Path) -> None:
    theirs, ours = (randomised(tsm_resnet101(CLASSES, width=WIDTH)) for _ in range(2))
    state = {}
    for name, value in theirs.state_dict().items():
        stage, _, rest = name.partition(".")
        shifted = rest.endswith("conv1.weight") and int(rest.split(".")[0]) % 2 == 0
        own = name.replace("conv1.weight", "conv1.net.weight") if shifted else name.replace("fc.", "new_fc.")
        state[f"module.{own}" if stage == "fc" else f"module.base_model.{own}"] = value
    assert {"module.new_fc.weight", "module.base_model.layer3.22.conv1.net.weight"} <= state.keys()
    assert "module.base_model.layer3.21.conv1.weight" in state
    assert_complete(load(ours, tmp_path / "tsm.pth", state), ours)


def tiny_swin(window: int = 2) -> VideoSwin:
    return VideoSwin(8, (1, 2, 1, 1), (1, 2, 2, 4), CLASSES, window_size=(window, 3, 3)).double().eval()


def swins(network: VideoSwin, *, wrapped: str = "") -> dict[str, Tensor]:
    """A network's entries as Swin's own code names them: stages of blocks, each with the merging after it."""
    parts = {"patch_embed": network.patch_embed, "norm": network.norm}
    for stage, blocks in enumerate(list(network.features)[::2]):
        for index, block in enumerate(blocks):
            mlp = {"mlp.fc1": block.mlp[0], "mlp.fc2": block.mlp[3]}
            own = {"norm1": block.norm1, "attn": block.attn, "norm2": block.norm2, **mlp}
            parts |= {f"layers.{stage}.blocks.{index}.{name}": part for name, part in own.items()}
    for stage, merging in enumerate(list(network.features)[1::2]):
        parts[f"layers.{stage}.downsample"] = merging
    return {f"{wrapped}{name}.{key}": v for name, part in parts.items() for key, v in part.state_dict().items()}


def test_reskds_swin_loads_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, teacher, ours = tiny_swin(), tiny_swin(), tiny_swin()
    state = swins(theirs, wrapped="backbone.low_res_path.") | swins(teacher, wrapped="backbone.high_res_path.")
    state |= {f"cls_head.fc_cls.{name}": value for name, value in theirs.head.state_dict().items()}
    assert "backbone.low_res_path.layers.2.blocks.0.attn.relative_position_bias_table" in state
    assert "backbone.low_res_path.layers.2.downsample.reduction.weight" in state
    assert_complete(load(ours, tmp_path / "reskd.pth", state), ours)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_swin_starts_from_images_and_sees_the_same_in_a_still(tmp_path: Path) -> None:
    """As from Microsoft's weights: tables and patches without time, under `model`, with masks and 1000 classes."""
    torch.manual_seed(0)
    state = swins(tiny_swin(window=1))  # windows without time have 2-D tables
    state["patch_embed.proj.weight"] = torch.randn(8, 3, 4, 4)
    state |= {"head.weight": torch.randn(1000, 64), "layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    networks = [tiny_swin(window=1), tiny_swin(window=3)]
    reports = [load_weights(network, str(tmp_path / "swin.pth")) for network in networks]
    tables = [name for name in networks[0].state_dict() if name.endswith("relative_position_bias_table")]
    assert reports[0].adapted == ["patch_embed.proj.weight"]
    assert reports[1].adapted == ["patch_embed.proj.weight", *tables]
    for report in reports:
        assert report.mismatched == [f"head.weight (1000, 64) -> ({CLASSES}, 64)"]
        assert report.missing == ["head.bias"]
        assert report.left_out == ["layers.0.blocks.1.attn_mask"]
        assert report.unexpected == []
    networks[1].head.load_state_dict(networks[0].head.state_dict())
    still = torch.randn(1, 1, 3, 96, 96, dtype=torch.float64)  # no maps smaller than the windows
    with torch.no_grad():
        from_one, from_three = networks[0](still.expand(1, 2, -1, -1, -1)), networks[1](still.expand(1, 6, -1, -1, -1))
    torch.testing.assert_close(from_three, from_one, rtol=1e-10, atol=1e-10)


def test_a_config_names_a_public_checkpoint(tmp_path: Path) -> None:
    theirs = PublicRecognizer("2d", DEPTHS["resnet50"])
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
    ours = resnet50(7, width=WIDTH, weights=str(tmp_path / "theirs.pth"))
    assert torch.equal(ours.layer3[5].bn3.weight, theirs.backbone.layer3[5].conv3.bn.weight)
    report = load_weights(ours, str(tmp_path / "theirs.pth"))
    assert report.mismatched == ["fc.weight (5, 256) -> (7, 256)", "fc.bias (5,) -> (7,)"]


def test_names_that_a_network_knows_are_left_alone() -> None:
    known = ("backbone.conv1.weight", "data_bn.weight", "fc.weight")
    weights = {"backbone.conv1.weight": torch.zeros(1), "data_bn.weight": torch.arange(2.0)}
    result = translate(weights, known)
    assert list(result.weights) == list(weights)
    assert [*result.translated, *result.turned, *result.left_out] == []


def test_no_entry_takes_the_place_of_another() -> None:
    weights = {"fc.weight": torch.zeros(1), "new_fc.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert translate(weights, ("fc.weight",)).weights == weights
    twice = {"new_fc.bias": torch.zeros(1), "base_model.fc.bias": torch.ones(1)}
    assert list(translate(twice, ("fc.bias",)).weights) == ["fc.bias", "base_model.fc.bias"]
