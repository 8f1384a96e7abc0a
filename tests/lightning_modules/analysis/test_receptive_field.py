"""Receptive fields in closed form, against full Jacobians, and inside the theoretical ones; and what is left alone."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.analysis.receptive_field import FieldArea, area_above, effective_receptive_field
from lightning_modules.networks import Backbone, FeatureInfo, VideoSwin, resnet10


class Chain(Backbone):
    """Convolutions one after the other, a depth each, in float64."""

    def __init__(self, *convolutions: nn.Module, reductions: tuple[int, ...]) -> None:
        super().__init__()
        self.num_classes, self.in_channels = 1, 1
        self.convolutions = nn.ModuleDict({f"conv{n}": conv for n, conv in enumerate(convolutions, 1)}).double()
        self.feature_info = [FeatureInfo(name, 1, r) for name, r in zip(self.convolutions, reductions, strict=True)]

    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        return self.convolutions[name](maps.flatten(0, 1)).unflatten(0, maps.shape[:2])

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean(dim=(-2, -1))


def ones(size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, size, stride, padding=size // 2, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def placed(profile: list[float], centre: int, size: int) -> np.ndarray:
    """A 1-D profile around a centre, as a 2-D field with largest value 1."""
    line = np.zeros(size)
    start = centre - len(profile) // 2
    line[start : start + len(profile)] = profile
    field = np.outer(line, line)
    return field / field.max()


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_all_ones_kernels_give_powers_of_the_box(depth: int) -> None:
    chain = Chain(*(ones(3) for _ in range(6)), reductions=(1,) * 6)
    power = [1.0]
    for _ in range(depth):
        power = np.convolve(power, [1, 1, 1]).tolist()
    found = effective_receptive_field(chain, torch.randn(2, 3, 1, 21, 21).double(), depth=f"conv{depth}")
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), placed(power, 10, 21), rtol=1e-12, atol=0)
    pixels, fraction = area_above(found, 0.5)
    assert pixels == (placed(power, 10, 21) > 0.5).sum()
    assert fraction == pixels / 441


def test_strides_spread_the_taps() -> None:
    chain = Chain(ones(3, stride=2), ones(3), ones(1, stride=2), reductions=(2, 2, 4))
    clips = torch.randn(1, 1, 1, 24, 20).double()
    field = effective_receptive_field(chain, clips[..., :20, :], depth="conv2").numpy()
    # Three boxes of three, two pixels apart; the unit 5 of 10 looks at pixel 10.
    np.testing.assert_allclose(field, placed([1, 1, 2, 1, 2, 1, 1], 10, 20), rtol=1e-12, atol=0)
    rows = effective_receptive_field(chain, clips).numpy()
    # Unit (3, 2) of (6, 5) looks at pixel (12, 8).
    assert np.argwhere(rows).min(axis=0).tolist() == [12 - 3, 8 - 3]
    assert np.argwhere(rows).max(axis=0).tolist() == [12 + 3, 8 + 3]


def jacobian_of(chain: Chain, clips: Tensor) -> Tensor:
    """(frames, channels, H, W): of the central unit of the last map, of each frame by itself."""
    frames = [frame[None, None] for frame in clips.flatten(0, 1)]
    rows = [
        torch.autograd.functional.jacobian(lambda x: chain.forward_features(x)["conv3"][0, 0, :, 2, 3], frame)
        for frame in frames
    ]
    return torch.stack(rows)[:, :, 0, 0, 0]


def test_equals_the_mean_jacobian_of_the_unit() -> None:
    torch.manual_seed(0)
    chain = Chain(ones(3, stride=2), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1), reductions=(2, 2, 2))
    clips = torch.randn(2, 3, 1, 10, 12).double()
    expected = jacobian_of(chain, clips).abs().mean(dim=(0, 1))
    torch.testing.assert_close(effective_receptive_field(chain, clips), expected / expected.max(), rtol=1e-12, atol=0)


def test_channels_add_up_with_all_signs() -> None:
    torch.manual_seed(0)
    chain = Chain(ones(3, stride=2), nn.ReLU(), nn.Conv2d(1, 3, 3, padding=1), reductions=(2, 2, 2))
    clip = torch.randn(1, 1, 1, 10, 12).double()
    jacobian = jacobian_of(chain, clip)[0]
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=3))).double()
    expected = torch.einsum("sc,chw->shw", signs, jacobian).abs().mean(0)
    found = effective_receptive_field(chain, clip.expand(40, 40, 1, 10, 12))
    torch.testing.assert_close(found, expected / expected.max(), rtol=0.05, atol=0.01)


def test_transformers_have_a_field_in_spite_of_layer_norm() -> None:
    torch.manual_seed(0)
    network = VideoSwin(8, (1, 1, 1, 1), (1, 2, 2, 2), 3, window_size=(2, 3, 3))
    pixels, fraction = area_above(effective_receptive_field(network, torch.randn(1, 4, 3, 32, 32)), 0.01)
    assert 0 < pixels <= 32 * 32
    assert fraction > 0.05


def test_a_network_looks_no_further_than_it_can() -> None:
    torch.manual_seed(0)
    network = resnet10(3, width=4).double()
    field = effective_receptive_field(network, torch.randn(1, 2, 3, 64, 64).double(), depth="layer1")
    # 7 pixels, 2 more poolings of stride 2, 4 more 3x3 pixels of stride 4: 27, around pixel 4 * 8.
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[32 - 13 : 32 + 14, 32 - 13 : 32 + 14] = True
    assert field[~inside].count_nonzero() == 0
    assert field[inside].count_nonzero() > 0.9 * 27 * 27  # max pooling passes some pixels over
    assert field.nonzero().amin(dim=0).tolist() == [32 - 13] * 2
    assert field.max() == 1
    whole = effective_receptive_field(network, torch.randn(1, 1, 3, 64, 64).double())
    assert area_above(whole, 1e-9)[0] > area_above(field, 1e-9)[0]


def test_leaves_nothing_behind_and_works_in_inference_mode() -> None:
    torch.manual_seed(0)
    network = resnet10(3, width=4).train().requires_grad_(False)
    network.layer1.eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    with torch.inference_mode():
        clips = torch.randn(2, 2, 3, 32, 32)
        assert torch.equal(effective_receptive_field(network, clips), effective_receptive_field(network, clips))
    assert not clips.requires_grad
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_records_and_refusals() -> None:
    area = FieldArea("rgb", "layer4", (32, 24), 0.1, 144, 0.1875, 3, 2)
    assert FieldArea.from_record(area.to_record()) == area
    assert area.side == area.to_record()["side"] == 12
    chain = Chain(ones(3), reductions=(1,))
    with pytest.raises(ValueError, match=r"`depth`: expected one of the network's \['conv1'\], came 'layer4'"):
        effective_receptive_field(chain, torch.zeros(1, 1, 1, 8, 8).double(), depth="layer4")
    with pytest.raises(ValueError, match="at least one clip"):
        effective_receptive_field(chain, torch.zeros(0, 1, 1, 8, 8).double())
    dead = Chain(nn.Conv2d(1, 1, 3, padding=1), reductions=(1,))
    nn.init.zeros_(dead.convolutions["conv1"].weight)
    assert effective_receptive_field(dead, torch.ones(1, 1, 1, 8, 8).double()).count_nonzero() == 0
