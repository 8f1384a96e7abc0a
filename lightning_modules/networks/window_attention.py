"""Self-attention within windows of a video's tokens, in turn shifted by half a window.

Liu et al., "Video Swin Transformer" (CVPR 2022), section 3.2, with torchvision's parameter names and outputs. Tokens
stand channels last: (B, T, H, W, channels).
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Size = tuple[int, ...]  # along time, height and width


class WindowAttention(nn.Module):
    """Attention of each token to those of its window.

    Along a side that is no longer than the window, the window is the whole side and is not shifted. Longer sides are
    filled up with zeros to whole windows at their ends; these zeros are attended to, as in the paper's code.

    Args:
        channels: of the tokens.
        num_heads: of attention; they share the channels.
        window: sides of a window, in tokens.
        shifted: shift windows by half their sides (SW-MSA), so that they cross the borders of the unshifted ones.

    Raises:
        ValueError: the heads cannot share the channels.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: Size, *, shifted: bool) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"`num_heads`: expected a divisor of the {channels} channels, came {num_heads}")
        self.num_heads = num_heads
        self.window = window
        self.shift = tuple(side // 2 if shifted else 0 for side in window)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        offsets = prod(2 * side - 1 for side in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, channels) -> the same shape."""
        size = tokens.shape[1:4]
        window, shift = self._fit(size)
        tokens = pad_to_multiples(tokens, window)
        grid = [side // length for side, length in zip(tokens.shape[1:4], window, strict=True)]
        tokens = roll(tokens, [-by for by in shift])
        tokens = merge_windows(self._attend(split_windows(tokens, window), window, shift, grid), window, grid)
        tokens = roll(tokens, shift)
        return tokens[:, : size[0], : size[1], : size[2]]

    def _fit(self, size: Size) -> tuple[Size, Size]:
        """Window and shift for maps of this size."""
        window = tuple(min(side, length) for side, length in zip(size, self.window, strict=True))
        shift = tuple(0 if side <= w else by for side, w, by in zip(size, self.window, self.shift, strict=True))
        return window, shift

    def _attend(self, windows: Tensor, window: Size, shift: Size, grid: list[int]) -> Tensor:
        """Windows (B, count, N, channels) of N tokens -> the same shape."""
        count = windows.shape[1]
        bias = self._bias(prod(window))
        if any(shift):
            # Windows have masks of their own: they count as heads, and all clips share one bias.
            apart = ~joined(window, shift, grid, bias.device)
            bias = bias.masked_fill(apart[:, None], float("-inf")).flatten(0, 1)[None]
            batch, heads, merged = "b", "(w h)", "b (w h) n c -> b w n (h c)"
        else:
            batch, heads, merged = "(b w)", "h", "(b w) h n c -> b w n (h c)"
        query, key, value = rearrange(
            self.qkv(windows), f"b w n (part h c) -> part {batch} {heads} n c", part=3, h=self.num_heads
        )
        out = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        return self.proj(rearrange(out, merged, h=self.num_heads, w=count))

    def _bias(self, length: int) -> Tensor:
        """(1, num_heads, N, N), for windows of ``length`` tokens.

        Smaller windows take the positions of the whole one's first tokens. In windows of less time these are their own;
        in windows of less height or width they are not, but torchvision and the paper's code have it so.
        """
        index = self.relative_position_index[:length, :length]
        return self.relative_position_bias_table[index].permute(2, 0, 1)[None]


def relative_position_index(window: Size) -> Tensor:
    """Where the table of biases has the offset from one token of a window to another.

    Args:
        window: sides of a window, in tokens.

    Returns:
        (N, N) int64: row of the offset query - key, offsets in lexical order; N = product of the sides.
    """
    tokens = torch.cartesian_prod(*(torch.arange(side) for side in window))
    index = torch.zeros(len(tokens), len(tokens), dtype=torch.int64)
    for side, place in zip(window, tokens.unbind(1), strict=True):
        index = index * (2 * side - 1) + place[:, None] - place + side - 1
    return index


def joined(window: Size, shift: Size, grid: list[int], device: torch.device) -> Tensor:
    """Which tokens of shifted windows are neighbours in the video, rather than brought together by rolling.

    Args:
        window: sides of a window, in tokens.
        shift: by how many tokens the maps were rolled towards their beginning.
        grid: windows along each side.
        device: where to make it.

    Returns:
        (windows, N, N) bool.
    """
    came_round = torch.zeros([1, *(side * count for side, count in zip(window, grid, strict=True)), 1], device=device)
    for bit, by in enumerate(shift):
        if by:
            came_round.narrow(bit + 1, came_round.shape[bit + 1] - by, by).add_(2**bit)
    places = split_windows(came_round, window)[0, :, :, 0]
    return places[:, :, None] == places[:, None, :]


def pad_to_multiples(tokens: Tensor, sides: Size) -> Tensor:
    """Zeros at the ends: (B, T, H, W, channels) -> T, H and W multiples of ``sides``."""
    time, height, width = (-length % side for length, side in zip(tokens.shape[1:4], sides, strict=True))
    return F.pad(tokens, (0, 0, 0, width, 0, height, 0, time)) if time or height or width else tokens


def roll(tokens: Tensor, by: Sequence[int]) -> Tensor:
    """Move (B, T, H, W, channels) by as many tokens along T, H and W; what leaves comes in at the other end."""
    return tokens.roll(by, dims=(1, 2, 3)) if any(by) else tokens


def split_windows(tokens: Tensor, window: Size) -> Tensor:
    """(B, T, H, W, channels) -> (B, windows, N, channels)."""
    pattern = "b (t wt) (h wh) (w ww) c -> b (t h w) (wt wh ww) c"
    return rearrange(tokens, pattern, **_lengths(window))


def merge_windows(windows: Tensor, window: Size, grid: list[int]) -> Tensor:
    """(B, windows, N, channels) -> (B, T, H, W, channels)."""
    pattern = "b (t h w) (wt wh ww) c -> b (t wt) (h wh) (w ww) c"
    return rearrange(windows, pattern, **_lengths(window), t=grid[0], h=grid[1], w=grid[2])


def _lengths(window: Size) -> dict[str, int]:
    return dict(zip(("wt", "wh", "ww"), window, strict=True))
