"""A network behind a lower resolution equals itself on frames that went through it."""

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.networks import DegradedInput, resnet10

CONFIG = {
    "class_path": "lightning_modules.networks.DegradedInput",
    "init_args": {
        "network": {
            "class_path": "lightning_modules.networks.resnet10",
            "init_args": {"num_classes": 3, "width": 4, "weights": "no/such/file"},
        },
        "size": 8,
    },
}


def test_equals_the_network_on_degraded_frames() -> None:
    torch.manual_seed(0)
    network = resnet10(3, width=4).eval()
    degraded = DegradedInput(network, 16)
    clips = torch.randn(2, 3, 3, 32, 48)
    frames = F.interpolate(clips.flatten(0, 1), size=(16, 24), mode="bilinear", align_corners=False)
    expected = F.interpolate(frames, size=(32, 48), mode="bilinear", align_corners=False).view_as(clips)
    torch.testing.assert_close(degraded(clips), network(expected))
    torch.testing.assert_close(degraded.forward_features(clips)["stem"], network.forward_features(expected)["stem"])
    assert (degraded.num_classes, degraded.in_channels) == (3, 3)
    small = torch.randn(1, 1, 3, 16, 16)
    assert torch.equal(degraded(small), network(small))


def test_is_configured_around_a_network_and_rebuilt_without_its_weights() -> None:
    network = build_network(without_weights(CONFIG))
    assert isinstance(network, DegradedInput)
    assert network.network.num_classes == 3
    assert CONFIG["init_args"]["network"]["init_args"]["weights"] == "no/such/file"
    with pytest.raises(ValueError, match="`size`"):
        DegradedInput(resnet10(3, width=4), 0)
