"""Train a network on one stream with what a trained one says of another: what kinds of distillation have in common."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.agreement import (
    check_same_classes,
    check_streams,
    num_classes_of,
    stream_of,
    warn_of_other_sizes,
)
from lightning_modules.checkpoints import load_network
from lightning_modules.frozen_teacher import FrozenTeacher, NormPolicy
from lightning_modules.losses import Matching
from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.taps import Taps
from lightning_modules.recognition import RecognitionModule

TEACHER = "`model.init_args.teacher`"


class DistillationModule(RecognitionModule):
    """A ``RecognitionModule`` whose network also learns from a frozen teacher that sees the same clips otherwise.

    The student is deployed by itself: checkpoints hold nothing of the teacher, and are those of a
    ``RecognitionModule`` to whoever reads its network. ``validate``, ``test`` and ``predict`` need no teacher; a
    resumed fit does.

    Logs as ``RecognitionModule``, and the weighted ``train/loss/<term>`` of each matching. What is averaged, and what
    it weighs, is printed once where a fit starts.

    Args:
        network: the student: clips (B, T, C, H, W) -> logits (B, num_classes), a ``Backbone``.
        stream: which stream the student sees.
        teacher: checkpoint of a ``RecognitionModule`` of the same classes.
        teacher_stream: which stream the teacher sees.
        teacher_norm: by which statistics the teacher's BatchNorm normalises, see ``FrozenTeacher``.
        matchings: what the student learns from the teacher; for none, no teacher is read.
        options: those of ``RecognitionModule``.
    """

    LIVE_ARGUMENTS = (*RecognitionModule.LIVE_ARGUMENTS, "matchings")

    def __init__(
        self,
        network: nn.Module,
        stream: str,
        teacher: str,
        *,
        teacher_stream: str,
        teacher_norm: NormPolicy,
        matchings: Sequence[Matching],
        **options: Any,
    ) -> None:
        super().__init__(network, stream, **options)
        if not isinstance(network, Backbone):
            raise ValueError(
                f"`model.init_args.network`: expected a network with depths (`Backbone`), came {type(network).__name__}"
            )
        self.source = teacher
        self.teacher_stream = teacher_stream
        self.teacher_norm: NormPolicy = teacher_norm
        self.matchings: Sequence[Matching] = nn.ModuleList(matchings)  # type: ignore[assignment]
        self.teacher: FrozenTeacher | None = None

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.matchings:
            check_streams(getattr(self.trainer, "datamodule", None), [self.teacher_stream])
            self.teacher = self.load_teacher()

    def load_teacher(self) -> FrozenTeacher:
        """Read the teacher.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is something else, of another stream, or knows other classes.
        """
        source = load_network(self.source, key=TEACHER)
        expected = self.teacher_stream.removesuffix("_high")
        if source.stream != expected or source.multi_label != self.multi_label:
            raise ValueError(
                f"{TEACHER}: expected a network trained on stream {expected!r} with `multi_label: {self.multi_label}`, "
                f"came one on {source.stream!r} with `multi_label: {source.multi_label}`"
            )
        if num_classes_of(source.network) != self.num_classes:
            raise ValueError(
                f"{TEACHER}: expected {self.num_classes} classes, as the student has, came "
                f"{num_classes_of(source.network)}"
            )
        datamodule = getattr(self.trainer, "datamodule", None)
        if source.size:
            warn_of_other_sizes(datamodule, {self.teacher_stream: source.size})
        classes = getattr(datamodule, "classes", None)
        if classes and source.classes:
            check_same_classes(source.classes, classes, of="the data")
        return FrozenTeacher(source, self.teacher_norm)

    @override
    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device, next(self.network.parameters()).dtype)
            terms = "; ".join(matching.describe(self.num_classes) for matching in self.matchings)
            rank_zero_only(print)(f"teacher {self.source}: {terms}", flush=True)

    @override
    def answer(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of the student, and the terms of the loss that the teacher adds."""
        if self.teacher is None:
            return super().answer(batch)
        assert isinstance(self.network, Backbone)
        teacher = self.teacher(stream_of(batch, self.teacher_stream, self.teacher.network))
        student = Taps.of(self.network, stream_of(batch, self.stream, self.network))
        return student.clip_logits.float(), {term.term: term(student, teacher) for term in self.matchings}
