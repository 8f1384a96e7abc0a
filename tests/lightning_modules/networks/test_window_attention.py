"""Window attention against loops over single tokens, which know neither rolling nor masks."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks.window_attention import WindowAttention, relative_position_index

Size = tuple[int, int, int]

# Size of the maps, window, shifted; then the window and the shift that are expected for this size.
CASES = {
    "whole windows": ((4, 6, 3), (2, 3, 2), False, (2, 3, 2), (0, 0, 0)),
    "shifted": ((4, 6, 5), (2, 3, 2), True, (2, 3, 2), (1, 1, 1)),
    "padded": ((3, 5, 4), (2, 3, 3), False, (2, 3, 3), (0, 0, 0)),
    "shifted, padded": ((3, 5, 4), (2, 3, 3), True, (2, 3, 3), (1, 1, 1)),
    "shifted, larger window": ((7, 2, 9), (5, 1, 4), True, (5, 1, 4), (2, 0, 2)),
    "less time": ((2, 6, 4), (4, 3, 3), True, (2, 3, 3), (0, 1, 1)),
    "as much time": ((4, 4, 3), (4, 3, 2), True, (4, 3, 2), (0, 1, 1)),
    "less height": ((5, 2, 3), (2, 4, 2), True, (2, 2, 2), (1, 0, 1)),
    "less height, not shifted": ((5, 2, 3), (2, 4, 2), False, (2, 2, 2), (0, 0, 0)),
    "less width": ((3, 4, 2), (2, 3, 3), True, (2, 3, 2), (1, 1, 0)),
    "one window": ((3, 2, 1), (4, 3, 2), True, (3, 2, 1), (0, 0, 0)),
}


def build(window: Size, shifted: bool) -> WindowAttention:
    """8 channels, 2 heads; biases and projections far from zero."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, window, shifted=shifted).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention


def token_by_token(weights: dict[str, Tensor], video: Tensor, whole: Size, window: Size, shift: Size) -> Tensor:
    """One video (T, H, W, channels), each of its tokens by itself, at two heads.

    Windows end at ``shift`` and every ``window`` tokens from there on; a token sees those between the same ends.
    """
    sides = [-(-side // length) * length for side, length in zip(video.shape, window, strict=False)]
    places = {}
    for place in product(*map(range, sides)):
        between = tuple((i - by) // length for i, by, length in zip(place, shift, window, strict=True))
        places.setdefault(between, []).append(place)

    def project(place: Size) -> Tensor:
        """Query, key and value, each of two heads; zeros beyond the video's ends."""
        inside = all(i < side for i, side in zip(place, video.shape, strict=False))
        token = video[place] if inside else video.new_zeros(video.shape[-1])
        return (weights["qkv.weight"] @ token + weights["qkv.bias"]).view(3, 2, -1)

    def position(place: Size) -> np.ndarray:
        """In the whole window, of the token whose number in this window is the same."""
        number = np.ravel_multi_index([(i - by) % w for i, by, w in zip(place, shift, window, strict=True)], window)
        return np.array(np.unravel_index(number, whole))

    out = torch.zeros_like(video)
    for members in places.values():
        projected = {place: project(place) for place in members}
        for place in members:
            if any(i >= side for i, side in zip(place, video.shape, strict=False)):
                continue
            offsets = [position(place) - position(other) + np.array(whole) - 1 for other in members]
            rows = [np.ravel_multi_index(offset, [2 * side - 1 for side in whole]) for offset in offsets]
            heads = []
            for head in (0, 1):
                query = projected[place][0, head]
                keys, values = (torch.stack([projected[other][part, head] for other in members]) for part in (1, 2))
                scores = keys @ query / len(query) ** 0.5 + weights["relative_position_bias_table"][rows, head]
                heads.append(scores.softmax(0) @ values)
            out[place] = weights["proj.weight"] @ torch.cat(heads) + weights["proj.bias"]
    return out


@pytest.mark.parametrize(("size", "whole", "shifted", "window", "shift"), CASES.values(), ids=CASES)
def test_equals_attention_token_by_token(size: Size, whole: Size, shifted: bool, window: Size, shift: Size) -> None:
    attention = build(whole, shifted)
    clips = torch.randn(2, *size, 8, dtype=torch.float64)
    weights = dict(attention.named_parameters())
    expected = torch.stack([token_by_token(weights, video, whole, window, shift) for video in clips])
    out = attention(clips)
    torch.testing.assert_close(out, expected)
    with torch.no_grad():  # may take another kernel
        torch.testing.assert_close(attention(clips), expected)
    gradients = [torch.autograd.grad(result.square().sum(), weights.values()) for result in (out, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_single_precision_is_near() -> None:
    attention = build((4, 3, 3), True)
    clips = torch.randn(2, 6, 7, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = attention(clips).float()
        torch.testing.assert_close(attention.float()(clips.float()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [(2, 3, 2), (1, 1, 4), (3, 2, 1)])
def test_position_index_tells_all_offsets_apart_in_lexical_order(window: Size) -> None:
    index = relative_position_index(window)
    places = list(product(*map(range, window)))
    offsets = list(product(*(range(1 - side, side) for side in window)))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            assert offsets[index[i, j]] == tuple(a - b for a, b in zip(query, key, strict=True))
