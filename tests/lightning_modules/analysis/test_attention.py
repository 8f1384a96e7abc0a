"""Attention by loops, its scale and its frames; and what pictures of it hold."""

import numpy as np
import pytest
import torch

from lightning_modules.analysis.attention import activation_attention, attention_of, spread_over_frames
from lightning_modules.analysis.attention_plot import SeenVideos, draw_attention, overlay
from lightning_modules.networks import resnet10


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_equals_loops(power: float) -> None:
    maps = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = activation_attention(maps, power=power)
    for b in range(2):
        for t in range(3):
            total = np.zeros((4, 6))
            for channel in maps[b, t].numpy():
                total += np.abs(channel) ** power
            np.testing.assert_allclose(found[b, t].numpy(), total / total.max(), rtol=1e-12)


def test_neither_scale_nor_precision_matter() -> None:
    maps = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    expected = activation_attention(maps.double())
    torch.testing.assert_close(activation_attention(3e4 * maps.double()), expected)
    torch.testing.assert_close(activation_attention(1e-200 * maps.double()), expected)
    assert activation_attention(maps.clamp(-1, 1) * 6e4, power=8).isfinite().all()
    maps[0, 1] = 0
    found = activation_attention(maps)
    assert found[0, 1].count_nonzero() == 0
    torch.testing.assert_close(found[0, 0], expected[0, 0])


def test_spread_over_frames() -> None:
    ramp = torch.arange(4.0).expand(1, 2, 4, 4).clone()
    ramp[:, 1] += 10
    found = spread_over_frames(ramp, 4, (8, 8))
    # Centres of the 8 pixels in units of the 4: -0.25, 0.25, 0.75, ..., held at the edges.
    profile = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(found[0, 0], profile.expand(8, 8))
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.0, 0, 10, 10]))


def test_of_a_network_in_eval_mode() -> None:
    torch.manual_seed(0)
    network = resnet10(3, width=4, dropout=0.5).train()
    clips = torch.randn(2, 3, 3, 32, 32)
    found = attention_of(network, clips, depth="layer2")
    assert network.training
    assert found.shape == (2, 3, 4, 4)
    maps = network.eval().forward_features(clips)["layer2"].detach().double()
    expected = maps.square().sum(dim=2)
    torch.testing.assert_close(found, expected / expected.amax(dim=(2, 3), keepdim=True))
    with pytest.raises(ValueError, match="`depth`"):
        attention_of(network, clips, depth="layer9")


def test_overlay_is_grey_under_little_and_hot_under_much_attention() -> None:
    frames = np.zeros((1, 2, 3), np.uint8) + np.uint8([30, 60, 90])
    cold, hot = overlay(np.stack([frames, frames]), np.stack([np.zeros((1, 2)), np.ones((1, 2))]))
    assert np.ptp(cold[0, 0].astype(int)) < 40
    assert int(hot[0, 0, 0]) - int(hot[0, 0, 2]) > 60


def test_picture_shows_inputs_once_and_every_network() -> None:
    random = np.random.default_rng(0)
    large, small = (random.integers(0, 255, (2, 3, size, size, 3), dtype=np.uint8) for size in (16, 8))
    heat = random.random((2, 1, 2, 2))
    seen = {"a": SeenVideos(large, heat), "b": SeenVideos(large, heat), "c": SeenVideos(small, heat)}
    videos = [{"path": "x/one.mp4", "class": "high_jump"}, {"path": "x/two.mp4", "class": ""}]
    figure = draw_attention(seen, videos)
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["input, 16 x 16", "a", "b", "input, 8 x 8", "c", "high jump\none", "two"]
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(pictures) == 5 * 2 * 3
    np.testing.assert_array_equal(pictures[4], large[1, 1])
    boxes = {tuple(np.round(axis.get_position().size, 6)) for axis in figure.axes[:-1]}
    assert len(boxes) == 1
