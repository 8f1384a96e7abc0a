"""Train a network on what P-frames hold with what a network on optical flow knows: the P-stream of IP TSN.

"Flow-Distilled IP Two-Stream Networks for Compressed Video Action Recognition" (arXiv 1912.04462): optical flow is
privileged information (generalized distillation), which training alone sees. The paper prints no loss; ours is

    cross-entropy + feature_weight * MSE(features) + logit_weight * T^2 * KL(teacher || student at temperature T)

with the features that both networks classify, as in MARS (Crasto et al., CVPR 2019), which weighs them by 50.
"""

from typing import Any

from torch import nn
from typing_extensions import override

from datamodules.clip import parts_of
from lightning_modules.distillation import DistillationModule
from lightning_modules.frozen_teacher import NormPolicy
from lightning_modules.losses import ClipLogitMatching, PooledFeatureMatching
from lightning_modules.networks.cross_modality import start_from

VECTORS = "mv"


class FlowDistillationModule(DistillationModule):
    """A ``RecognitionModule`` on motion vectors and residuals whose network also learns from one on optical flow.

    ::

        batch.streams["flow"] ---------> teacher, frozen --> features, logits --+
                                                                                +-- feature, clip_logits --+
        batch.streams["mv+residual"] --> student ----------> features, logits --+                          +--> loss
                                                                |                                          |
                                                                +---- labels: cross-entropy ---------------+

    The data have ``streams: [mv+residual, flow]`` and ``privileged: [flow]``: flow exists in training alone.
    Checkpoints and logs: ``DistillationModule``.

    Args:
        network: the student: clips (B, T, C, H, W) -> logits (B, num_classes), a ``Backbone``; 5 channels for
            ``mv+residual``, 2 for ``mv``, 3 for ``residual``.
        stream: which stream the student sees.
        teacher: checkpoint of a ``RecognitionModule`` of the same classes, on ``teacher_stream``.
        teacher_stream: which stream the teacher sees.
        teacher_norm: by which statistics the teacher's BatchNorm normalises, see ``FrozenTeacher``.
        feature_weight: of the squared error of pooled last maps; 0: no such term. For networks of one width.
        logit_weight: of the divergence of clip logits; 0: no such term.
        temperature: T, that both logits are divided by.
        start_from_teacher: whether the student starts with the teacher's weights: vectors with the filters for flow,
            other channels with their mean (see ``start_from``). For networks of one architecture.
        options: those of ``RecognitionModule``.
    """

    def __init__(
        self,
        network: nn.Module,
        stream: str,
        teacher: str,
        *,
        teacher_stream: str = "flow",
        teacher_norm: NormPolicy = "eval",
        feature_weight: float = 50.0,
        logit_weight: float = 1.0,
        temperature: float = 2.0,
        start_from_teacher: bool = False,
        **options: Any,
    ) -> None:
        terms = (PooledFeatureMatching(feature_weight), ClipLogitMatching(logit_weight, temperature))
        super().__init__(
            network,
            stream,
            teacher,
            teacher_stream=teacher_stream,
            teacher_norm=teacher_norm,
            matchings=[term for term in terms if term.weight],
            **options,
        )
        self.start_from_teacher = start_from_teacher

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.start_from_teacher:  # a resumed fit gets its own weights afterwards
            source = (self.teacher or self.load_teacher()).network
            shared = source.in_channels if parts_of(self.stream)[0] == VECTORS else 0
            start_from(self.network, source, num_shared=shared)
