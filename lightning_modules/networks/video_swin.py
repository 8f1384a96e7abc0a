"""Video Swin Transformers: attention within shifted windows of space and time, with torchvision's parameter names.

Liu et al., "Video Swin Transformer" (CVPR 2022), section 3, in the form of torchvision's ``swin3d_t``, ``swin3d_s`` and
``swin3d_b``, with their outputs; stochastic depth is the paper's (section 4.1). Frames come in pairs: T frames are
ceil(T / 2) in all maps.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.feature_info import FeatureInfo
from lightning_modules.networks.weights import load_weights
from lightning_modules.networks.window_attention import Size, WindowAttention, pad_to_multiples

PATCH = (2, 4, 4)  # frames, rows and columns of pixels in a token
MLP_RATIO = 4


class PatchEmbedding(nn.Module):
    """Patches of 2 x 4 x 4 pixels, projected and normalised; clips are filled up with zeros at their ends."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, channels, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, in_channels, H, W) -> tokens (B, T / 2, H / 4, W / 4, channels), sides rounded up."""
        pixels = pad_to_multiples(clip.permute(0, 1, 3, 4, 2), PATCH)
        return self.norm(self.proj(pixels.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))


class PatchMerging(nn.Module):
    """Four neighbours of a frame become one token of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, channels) -> (B, T, H / 2, W / 2, 2 * channels), sides rounded up."""
        tokens = pad_to_multiples(tokens, (1, 2, 2))
        return self.reduction(self.norm(rearrange(tokens, "b t (h y) (w x) c -> b t h w (x y c)", x=2, y=2)))


class SwinBlock(nn.Module):
    """Window attention and a two-layer perceptron, each normalised before and added to what it is given.

    Args:
        channels: of the tokens.
        num_heads: of attention.
        window: sides of a window, in tokens.
        shifted: whether windows are shifted.
        stochastic_depth: probability that a clip goes past a branch, in training.
        gradient_checkpointing: compute the block again in the backward pass instead of keeping what is in it.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: Size,
        *,
        shifted: bool,
        stochastic_depth: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, window, shifted=shifted)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.norm2 = nn.LayerNorm(channels)
        hidden = MLP_RATIO * channels
        # torchvision has dropout, of probability 0, in the third place.
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, channels) -> the same shape."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._run, tokens, use_reentrant=False)
        return self._run(tokens)

    def _run(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.stochastic_depth(self.attn(self.norm1(tokens)))
        return tokens + self.stochastic_depth(self.mlp(self.norm2(tokens)))


class StochasticDepth(nn.Dropout):
    """Zeros for whole clips at random, the others scaled up to the same mean; in training only (arXiv 1603.09382)."""

    @override
    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.p == 0:
            return branch
        return branch * super().forward(branch.new_ones(len(branch), *[1] * (branch.ndim - 1)))


class VideoSwin(Backbone):
    """A Swin Transformer over clips: tokens of 2 x 4 x 4 pixels, four stages, half the sides from one to the next.

    Attributes: ``num_classes``, ``in_channels`` and ``feature_info``, which describes the maps that
    ``forward_features`` returns: ``stem`` (the tokens) and ``stage1`` to ``stage4``, the last one normalised. They have
    ceil(T / 2) frames, and so have ``frame_logits``.

    Args:
        channels: of the first stage; each further one has twice as many.
        depths: blocks in each stage.
        num_heads: of attention, in each stage.
        num_classes: length of the logits.
        in_channels: channels of the clips.
        window_size: sides of a window along time, height and width, in tokens.
        stochastic_depth: probability that a clip goes past a branch of the last block, in training; it grows linearly
            from 0 at the first one.
        dropout: probability of dropping a pooled feature before the classifier, for all frames at once.
        gradient_checkpointing: compute blocks again in the backward pass: takes a forward pass more, and little memory.

    Raises:
        ValueError: ``depths`` and ``num_heads`` differ in length, heads cannot share their stage's channels, or
            ``window_size`` is not three sides.
    """

    pools_time = True

    def __init__(
        self,
        channels: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        *,
        window_size: Sequence[int] = (8, 7, 7),
        stochastic_depth: float = 0.1,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(depths, num_heads, window_size)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.feature_info = [FeatureInfo("stem", channels, PATCH[-1])]
        self.patch_embed = PatchEmbedding(in_channels, channels)
        self.features = nn.Sequential()
        probabilities = _linear(stochastic_depth, sum(depths))
        for depth, heads in zip(depths, num_heads, strict=True):
            own, probabilities = probabilities[:depth], probabilities[depth:]
            self._add_stage(heads, tuple(window_size), own, gradient_checkpointing)
        self.norm = nn.LayerNorm(self.feature_info[-1].channels)
        self.dropout = nn.Dropout1d(dropout)
        self.head = nn.Linear(self.feature_info[-1].channels, num_classes)
        self._initialise()

    @override
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        if name == "stem":
            self._check_shape(maps)
            return _to_maps(self.patch_embed(maps))
        tokens = maps.permute(0, 1, 3, 4, 2)
        for part in self._parts(name):
            tokens = part(tokens)
        return _to_maps(tokens)

    @property
    @override
    def classifier(self) -> nn.Linear:
        return self.head

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(3, 4)).transpose(1, 2)
        # A feature is dropped from all frames: as if their mean were classified, as in the paper's code.
        return self.head(self.dropout(pooled).transpose(1, 2))

    def _add_stage(
        self, num_heads: int, window: Size, stochastic_depths: Sequence[float], gradient_checkpointing: bool
    ) -> None:
        """Put one stage on top of the last entry of ``feature_info``, and declare it there."""
        before, number = self.feature_info[-1], len(self.feature_info)
        factor = 1 if number == 1 else 2
        if factor == 2:
            self.features.append(PatchMerging(before.channels))
        info = FeatureInfo(f"stage{number}", factor * before.channels, factor * before.reduction)
        self.feature_info.append(info)
        blocks = [
            SwinBlock(
                info.channels,
                num_heads,
                window,
                shifted=index % 2 == 1,
                stochastic_depth=probability,
                gradient_checkpointing=gradient_checkpointing,
            )
            for index, probability in enumerate(stochastic_depths)
        ]
        self.features.append(nn.Sequential(*blocks))

    def _parts(self, name: str) -> Iterator[nn.Module]:
        """The modules from the depth before ``name`` to it: of the first stage no merging, of the last one the norm."""
        number = [info.name for info in self.feature_info].index(name)
        yield from list(self.features)[max(2 * number - 3, 0) : 2 * number - 1]
        if name == self.feature_info[-1].name:
            yield self.norm

    def _initialise(self) -> None:
        """Truncated normal weights of standard deviation 0.02 and no bias in linear layers, as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _to_maps(tokens: Tensor) -> Tensor:
    """(B, T, H, W, channels) -> (B, T, channels, H, W), a view."""
    return tokens.permute(0, 1, 4, 2, 3)


def _linear(last: float, count: int) -> list[float]:
    """``0.3, 4`` -> ``[0.0, 0.1, 0.2, 0.3]``."""
    return [last * index / max(count - 1, 1) for index in range(count)]


def _check_sizes(depths: Sequence[int], num_heads: Sequence[int], window_size: Sequence[int]) -> None:
    if len(depths) != len(num_heads):
        raise ValueError(
            f"expected `depths` and `num_heads` of one number of stages, came {list(depths)} and {list(num_heads)}"
        )
    if len(window_size) != 3:
        raise ValueError(f"`window_size`: expected sides along time, height and width, came {list(window_size)}")


def _video_swin(
    channels: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    num_classes: int,
    in_channels: int,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    **options: Any,
) -> VideoSwin:
    """Build a network and start it from ``weights`` (see ``load_weights``) where given."""
    network = VideoSwin(channels, depths, num_heads, num_classes, in_channels, **options)
    if weights is not None:
        load_weights(network, weights, sha256=sha256)
    return network


# Options of all of them: those of `VideoSwin` after `in_channels`; `weights`, `sha256` as in `load_weights`.


def video_swin_t(num_classes: int, in_channels: int = 3, *, stochastic_depth: float = 0.1, **options: Any) -> VideoSwin:
    """Swin-T."""
    return _video_swin(
        96, (2, 2, 6, 2), (3, 6, 12, 24), num_classes, in_channels, stochastic_depth=stochastic_depth, **options
    )


def video_swin_s(num_classes: int, in_channels: int = 3, *, stochastic_depth: float = 0.2, **options: Any) -> VideoSwin:
    """Swin-S."""
    return _video_swin(
        96, (2, 2, 18, 2), (3, 6, 12, 24), num_classes, in_channels, stochastic_depth=stochastic_depth, **options
    )


def video_swin_b(num_classes: int, in_channels: int = 3, *, stochastic_depth: float = 0.3, **options: Any) -> VideoSwin:
    """Swin-B."""
    return _video_swin(
        128, (2, 2, 18, 2), (4, 8, 16, 32), num_classes, in_channels, stochastic_depth=stochastic_depth, **options
    )
