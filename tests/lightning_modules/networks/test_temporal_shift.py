"""Temporal shift against a loop over frames; a network against others that it has to equal; places by the public rule.

``test_public_names`` compares whole networks with a stand-in of the public code.
"""

import pytest
import torch
from torch import Tensor

from lightning_modules.checkpoints import build_network
from lightning_modules.networks import (
    EarlyExitNetwork,
    TSMResNet,
    resnet10,
    resnet50,
    tsm_resnet10,
    tsm_resnet18,
    tsm_resnet50,
    tsm_resnet101,
)
from lightning_modules.networks.temporal_shift import temporal_shift


@pytest.fixture
def clip() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 4, 3, 32, 40, dtype=torch.float64)


@pytest.mark.parametrize(
    ("num_frames", "channels", "shift_div"), [(1, 8, 8), (2, 8, 8), (5, 17, 8), (3, 9, 3), (4, 4, 8)]
)
def test_channels_come_from_the_neighbours(num_frames: int, channels: int, shift_div: int) -> None:
    maps = torch.randn(2, num_frames, channels, 3, 2)
    shifted, fold = temporal_shift(maps, shift_div), channels // shift_div
    assert shifted.shape == maps.shape
    for frame in range(num_frames):
        for channel in range(channels):
            source = frame + (1 if channel < fold else -1 if channel < 2 * fold else 0)
            expected = maps[:, source, channel] if 0 <= source < num_frames else torch.zeros(2, 3, 2)
            assert torch.equal(shifted[:, frame, channel], expected)


def test_names_shapes_and_weights_are_those_of_a_resnet() -> None:
    with torch.device("meta"):
        usual, shifted = resnet50(174).state_dict(), tsm_resnet50(174).state_dict()
    assert {name: value.shape for name, value in shifted.items()} == {name: v.shape for name, v in usual.items()}
    assert list(shifted) == list(usual)


@pytest.mark.parametrize("build", [tsm_resnet18, tsm_resnet50, tsm_resnet101])
def test_shifted_are_all_blocks_or_every_second_one_of_the_deepest_networks(build: object) -> None:
    with torch.device("meta"):
        network = build(5)
    places = [[block.shift_div for block in network.get_submodule(stage)] for stage in network.clip_stages]
    depths = [len(stage) for stage in places]
    if build is tsm_resnet101:
        assert places == [[8, None, 8], [8, None, 8, None], [8, *[None, 8] * 11], [8, None, 8]]
    else:
        assert places == [[8] * depth for depth in depths]


def test_it_is_a_resnet_where_the_shifted_channels_count_for_nothing(clip: Tensor) -> None:
    """The branch alone is shifted: through the shortcut every channel passes as it was."""
    shifted, usual = tsm_resnet10(5, width=8).double().eval(), resnet10(5, width=8).double().eval()
    with torch.no_grad():
        for stage in shifted.clip_stages:
            for block in shifted.get_submodule(stage):
                block.conv1.weight[:, : 2 * (block.conv1.in_channels // 8)] = 0
        usual.load_state_dict(shifted.state_dict())
        assert torch.equal(shifted(clip), usual(clip))


def test_clips_are_apart_and_frames_are_not(clip: Tensor) -> None:
    network = tsm_resnet10(5, width=8).double().eval()
    with torch.no_grad():
        logits = network.frame_logits(clip)
        torch.testing.assert_close(network.frame_logits(clip[1:]), logits[1:])
        torch.testing.assert_close(network(clip), logits.mean(1))
        changed = clip.clone()
        changed[:, 2] += 1
        same = torch.isclose(network.frame_logits(changed), logits).all(-1)
    assert same.sum() == 0  # four blocks reach four frames
    assert not torch.allclose(network(clip.flip(1)), logits.mean(1))


def test_any_number_of_frames_and_an_empty_batch() -> None:
    network = tsm_resnet10(5, 2, width=8).eval()
    for shape in [(2, 1, 2, 32, 32), (1, 3, 2, 32, 32), (0, 4, 2, 32, 32)]:
        assert network(torch.randn(shape)).shape == (shape[0], 5)


def test_feature_info_describes_the_features() -> None:
    network = tsm_resnet50(4, 2, width=8, strides=(1, 1, 2, 2)).eval()
    features = network.forward_features(torch.randn(2, 3, 2, 48, 64))
    assert list(features) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    for info in network.feature_info:
        assert features[info.name].shape == (2, 3, info.channels, 48 // info.reduction, 64 // info.reduction)


def test_a_config_builds_it() -> None:
    init_args = {"num_classes": 4, "in_channels": 2, "width": 8, "shift_div": 4, "strides": [1, 1, 2, 2]}
    network = build_network({"class_path": "lightning_modules.networks.tsm_resnet50", "init_args": init_args})
    assert isinstance(network, TSMResNet)
    assert network.layer1[0].shift_div == 4
    assert [info.reduction for info in network.feature_info] == [4, 4, 4, 8, 16]
    assert network(torch.randn(1, 2, 2, 32, 32)).shape == (1, 4)


def test_it_has_exits(clip: Tensor) -> None:
    backbone = tsm_resnet10(5, width=8)
    network = EarlyExitNetwork(backbone).double().eval()
    assert torch.equal(network(clip)[:, -1], backbone(clip))


@pytest.mark.parametrize("shift_div", [0, 1, 16])
def test_nothing_to_shift_is_an_error(shift_div: int) -> None:
    with pytest.raises(ValueError, match=f"`shift_div`: expected 2 to 8, the network's `width`, came {shift_div}"):
        tsm_resnet10(5, width=8, shift_div=shift_div)


def test_exports() -> None:
    network = tsm_resnet10(4, 2, width=8).eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    exported = torch.export.export(network, (clip,)).module()
    torch.testing.assert_close(exported(clip), network(clip))
