"""What a student learns from a teacher that sees the same clips otherwise: features, or logits.

Per position, frame or clip: "Rethinking Resolution in the Context of Efficient Video Recognition" (ResKD, NeurIPS
2022), section 3.2 and Table 5.
Maps of different grids are brought to the teacher's by bilinear interpolation of the student's (align_corners false),
frame by frame; the frames are the same ones.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.resize import resize_maps
from lightning_modules.networks.taps import Taps

Reduction = Literal["positions", "elements"]


class Matching(nn.Module, ABC):
    """A term of a student's loss.

    Attributes: ``term``, the name it is logged by.

    Args:
        weight: that the term is multiplied by.

    Raises:
        ValueError: a negative weight.
    """

    term: str

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"`matching.weight`: expected 0 or more, came {weight}")
        self.weight = weight

    def forward(self, student: Taps, teacher: Taps) -> Tensor:
        """The weighted term, (); no gradient reaches the teacher.

        Args:
            student: of B clips.
            teacher: of the same clips, at another resolution.

        Raises:
            ValueError: maps or logits that cannot be compared.
        """
        return self.weight * self.distance(student, teacher)

    @abstractmethod
    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        """The term without its weight, ()."""

    @abstractmethod
    def describe(self, num_classes: int) -> str:
        """In one line what is summed, what is averaged, and what that weighs."""


class FeatureMatching(Matching):
    """Mean squared error of the last maps, over all elements (section 3.2, the paper's own).

    Args:
        weight: the paper's 100 is for TSN, TSM and SlowOnly.
    """

    term = "feature"

    def __init__(self, weight: float = 100.0) -> None:
        super().__init__(weight)

    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        _check_frames(student.features, teacher.features)
        if student.features.shape[2] != teacher.features.shape[2]:
            raise ValueError(
                f"expected last maps of equal channels, came {_describe(student.features)} of the student and "
                f"{_describe(teacher.features)} of the teacher; for networks of different width take "
                "`model.init_args.matching: lightning_modules.losses.PositionLogitMatching`"
            )
        target = _precise(teacher.features.detach())
        return F.mse_loss(resize_maps(_precise(student.features), target.shape[-2:]), target)

    def describe(self, num_classes: int) -> str:
        return f"{self.weight:g} x squared error of the last maps, mean over all elements"


class PooledFeatureMatching(Matching):
    """Mean squared error of the last maps' means over positions, frame by frame: of what the heads classify.

    As in MARS (Crasto et al., CVPR 2019), where a network on frames learns from one on optical flow.

    Args:
        weight: MARS has 50.
    """

    term = "feature"

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__(weight)

    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        _check_frames(student.features, teacher.features)
        found, target = student.pooled_features, teacher.pooled_features.detach()
        if found.shape != target.shape:
            raise ValueError(
                f"expected last maps of equal channels, came {found.shape[2]} of the student and {target.shape[2]} of "
                "the teacher; for networks of different width set `model.init_args.feature_weight: 0`"
            )
        return F.mse_loss(_precise(found), _precise(target))

    def describe(self, num_classes: int) -> str:
        return f"{self.weight:g} x squared error of pooled features, mean over clips, frames and channels"


class LogitMatching(Matching):
    """Divergence of softened probabilities, teacher from student: ``T^2 * sum_c p_c log(p_c / q_c)``.

    Args:
        weight: of the mean over what is compared.
        temperature: T, that both logits are divided by.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"`matching.temperature`: expected more than 0, came {temperature}")
        self.temperature = temperature

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over all but the classes: (..., num_classes) and the same -> ()."""
        if student.shape != teacher.shape:
            raise ValueError(
                f"expected equal classes, came logits {tuple(student.shape)} of the student and "
                f"{tuple(teacher.shape)} of the teacher (`model.init_args.teacher`)"
            )
        target = (_precise(teacher.detach()) / self.temperature).log_softmax(dim=-1)
        found = (_precise(student) / self.temperature).log_softmax(dim=-1)
        return self.temperature**2 * (target.exp() * (target - found)).sum(dim=-1).mean()


class PositionLogitMatching(LogitMatching):
    """Divergence at every position of the last map, each by its network's own linear classifier (Video Swin).

    Nothing is dropped on the way to it. The student's logits are up-sampled, which equals classifying up-sampled
    features: both are linear.

    Args:
        weight: 0.5 by positions, which the paper's code has as 200 by elements of 400 classes. With T^2 of the paper's
            temperature that is twice the divergence; 200 by positions would be 400 times too strong.
        temperature: T, the paper's is 2.
        reduction: "positions": mean over B, T, h, w of the sum over classes. "elements": mean over the classes too,
            num_classes times weaker.
    """

    term = "position_logits"

    def __init__(self, weight: float = 0.5, temperature: float = 2.0, reduction: Reduction = "positions") -> None:
        super().__init__(weight, temperature)
        if reduction not in ("positions", "elements"):
            raise ValueError(f"`matching.reduction`: expected positions or elements, came {reduction!r}")
        self.reduction = reduction

    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        _check_frames(student.features, teacher.features)
        target = teacher.position_logits
        found = resize_maps(student.position_logits, target.shape[-2:])
        divergence = self.divergence(found.movedim(2, -1), target.movedim(2, -1))
        return divergence if self.reduction == "positions" else divergence / target.shape[2]

    def describe(self, num_classes: int) -> str:
        summed = 1 if self.reduction == "positions" else num_classes
        effective = self.weight * self.temperature**2 / summed
        return (
            f"{self.weight:g} x T^2 x KL of position logits at T = {self.temperature:g}, mean over {self.reduction}: "
            f"{effective:g} x KL, summed over {num_classes} classes, mean over clips, frames and positions"
        )


class FrameLogitMatching(LogitMatching):
    """Divergence of the logits of each frame (Table 5); weight and temperature are not printed in the paper."""

    term = "frame_logits"

    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        _check_frames(student.features, teacher.features)
        return self.divergence(student.frame_logits, teacher.frame_logits)

    def describe(self, num_classes: int) -> str:
        return f"{self.weight:g} x T^2 x KL of frame logits at T = {self.temperature:g}, mean over clips and frames"


class ClipLogitMatching(LogitMatching):
    """Divergence of the logits of each clip (Table 5); weight and temperature are not printed in the paper."""

    term = "clip_logits"

    def distance(self, student: Taps, teacher: Taps) -> Tensor:
        return self.divergence(student.clip_logits, teacher.clip_logits)

    def describe(self, num_classes: int) -> str:
        return f"{self.weight:g} x T^2 x KL of clip logits at T = {self.temperature:g}, mean over clips"


def _precise(values: Tensor) -> Tensor:
    """float32 at least: what mixed precision has made of logits is too coarse for differences of theirs."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_frames(student: Tensor, teacher: Tensor) -> None:
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"expected maps of the same clips and frames, came {_describe(student)} of the student and "
            f"{_describe(teacher)} of the teacher; both networks must keep as many frames"
        )


def _describe(maps: Tensor) -> str:
    batch, frames, channels, height, width = maps.shape
    return f"{batch} clips x {frames} frames of {channels} channels on a grid of {height}x{width}"
