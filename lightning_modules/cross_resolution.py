"""Train a network on small frames with the features of a network on large ones: cross-resolution distillation (ResKD).

"Rethinking Resolution in the Context of Efficient Video Recognition" (NeurIPS 2022), section 3.2: cross-entropy, and
what the student's last map says differently from the teacher's. Only training knows the teacher.
"""

from typing import Any

from torch import nn

from lightning_modules.distillation import DistillationModule
from lightning_modules.frozen_teacher import NormPolicy
from lightning_modules.losses import FeatureMatching, Matching


class CrossResolutionModule(DistillationModule):
    """A ``RecognitionModule`` whose network also learns from a teacher that sees the same frames at high resolution.

    ::

        batch.streams["rgb_high"] --> teacher, frozen -------> last map, logits --+
                                                                                  +-- matching * weight --+
        batch.streams["rgb"] -------> student ---------------> last map, logits --+                       +--> loss
                                                                  |                                       |
                                                                  +---- labels: cross-entropy ------------+

    Checkpoints and logs: ``DistillationModule``.

    Args:
        network: the student: clips (B, T, C, H, W) -> logits (B, num_classes), a ``Backbone``.
        stream: which stream the student sees.
        teacher: checkpoint of a ``RecognitionModule`` of the same classes.
        teacher_stream: which stream the teacher sees; None: ``<stream>_high``. The student's own ``stream`` distils
            into a smaller model alone (Table 6).
        teacher_norm: by which statistics the teacher's BatchNorm normalises, see ``FrozenTeacher``.
        matching: what the student learns from the teacher.
        options: those of ``RecognitionModule``.
    """

    LIVE_ARGUMENTS = (*DistillationModule.LIVE_ARGUMENTS, "matching")

    def __init__(
        self,
        network: nn.Module,
        stream: str,
        teacher: str,
        *,
        teacher_stream: str | None = None,
        teacher_norm: NormPolicy = "eval",
        matching: Matching | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            network,
            stream,
            teacher,
            teacher_stream=teacher_stream or f"{stream}_high",
            teacher_norm=teacher_norm,
            matchings=[matching or FeatureMatching()],
            **options,
        )
