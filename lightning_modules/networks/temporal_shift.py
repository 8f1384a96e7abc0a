"""Residual networks with the Temporal Shift Module: a 2-D network that sees neighbouring frames, at no cost.

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding" (ICCV 2019), section 3.3, in the form of its
public code and mmaction2's: residual shift ("blockres") before the first convolution of a block, in every block; in
every second block, from the first of each stage on, where ``layer3`` has 23 blocks or more (ResNet-101 and -152). The
clip's ends are filled up with zeros. The number of frames is that of the clips. Parameter names are torchvision's.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_modules.networks.clip_block import ClipBlock
from lightning_modules.networks.resnet import BasicBlock, Bottleneck, ResNet
from lightning_modules.networks.weights import load_weights


def temporal_shift(maps: Tensor, shift_div: int) -> Tensor:
    """Give every frame some channels of its neighbours.

    Args:
        maps: (B, T, C, h, w).
        shift_div: the first C // shift_div channels come from the next frame, the next ones, as many, from the frame
            before. At the ends of the clip they are zeros.

    Returns:
        (B, T, C, h, w).
    """
    count = maps.shape[2] // shift_div
    coming, past, own = maps.tensor_split((count, 2 * count), dim=2)
    following = F.pad(coming[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    preceding = F.pad(past[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((following, preceding, own), dim=2)


class _ShiftedBlock(ClipBlock):
    """A block whose branch, not its shortcut, sees shifted channels. ``shift_div`` None: it sees each frame alone."""

    shift_div: int | None = None

    def _shifted(self, maps: Tensor) -> Tensor:
        """(B, T, in_channels, h, w) -> (B * T, in_channels, h, w)."""
        return (temporal_shift(maps, self.shift_div) if self.shift_div else maps).flatten(0, 1)


class ShiftedBasicBlock(_ShiftedBlock, BasicBlock):
    """The block of ResNet-18 and -34 over clips, with temporal shift."""

    @override
    def branch(self, maps: Tensor) -> Tensor:
        return BasicBlock.branch(self, self._shifted(maps))


class ShiftedBottleneck(_ShiftedBlock, Bottleneck):
    """The block of ResNet-50, -101 and -152 over clips, with temporal shift."""

    @override
    def branch(self, maps: Tensor) -> Tensor:
        return Bottleneck.branch(self, self._shifted(maps))


class TSMResNet(ResNet):
    """A residual network with temporal shift; the weights of a ``ResNet`` fit.

    Args:
        block: ``ShiftedBasicBlock`` or ``ShiftedBottleneck``.
        depths: blocks in each of the four stages.
        num_classes: length of the logits.
        in_channels: channels of the clips.
        shift_div: 1 / shift_div of the channels come from the next frame, as many from the frame before.
        options: those of ``ResNet``.

    Raises:
        ValueError: the narrowest stage has too few channels to shift any.
    """

    clip_stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[ShiftedBasicBlock] | type[ShiftedBottleneck],
        depths: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        *,
        shift_div: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(block, depths, num_classes, in_channels, **options)
        width = self.feature_info[0].channels
        if not 2 <= shift_div <= width:
            raise ValueError(f"`shift_div`: expected 2 to {width}, the network's `width`, came {shift_div}")
        every = 2 if depths[2] >= 23 else 1
        for stage in self.clip_stages:
            for shifted in list(self.get_submodule(stage).children())[::every]:
                assert isinstance(shifted, _ShiftedBlock)
                shifted.shift_div = shift_div


def _tsm_resnet(
    block: type[ShiftedBasicBlock] | type[ShiftedBottleneck],
    depths: Sequence[int],
    num_classes: int,
    in_channels: int,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    **options: Any,
) -> TSMResNet:
    """Build a network and start it from ``weights`` (see ``load_weights``) where given."""
    network = TSMResNet(block, depths, num_classes, in_channels, **options)
    if weights is not None:
        load_weights(network, weights, sha256=sha256)
    return network


# Options of all of them: those of `TSMResNet` and `ResNet` after `in_channels`; `weights`, `sha256` as in
# `load_weights`.


def tsm_resnet10(num_classes: int, in_channels: int = 3, **options: Any) -> TSMResNet:
    """ResNet-10 with temporal shift: for small experiments."""
    return _tsm_resnet(ShiftedBasicBlock, (1, 1, 1, 1), num_classes, in_channels, **options)


def tsm_resnet18(num_classes: int, in_channels: int = 3, **options: Any) -> TSMResNet:
    """ResNet-18 with temporal shift."""
    return _tsm_resnet(ShiftedBasicBlock, (2, 2, 2, 2), num_classes, in_channels, **options)


def tsm_resnet50(num_classes: int, in_channels: int = 3, **options: Any) -> TSMResNet:
    """ResNet-50 with temporal shift."""
    return _tsm_resnet(ShiftedBottleneck, (3, 4, 6, 3), num_classes, in_channels, **options)


def tsm_resnet101(num_classes: int, in_channels: int = 3, **options: Any) -> TSMResNet:
    """ResNet-101 with temporal shift in every second block."""
    return _tsm_resnet(ShiftedBottleneck, (3, 4, 23, 3), num_classes, in_channels, **options)
