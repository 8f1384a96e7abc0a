"""Which teacher is in charge at which epoch of progressive knowledge distillation.

Soufleri et al. (arXiv 2407.02713), Fig. 3: the motion-vector network's classifier teaches first, then the residual
network's, then the I-frame network's. Their code ends with each network's own classifier (``own``) instead.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override


class Taught(Protocol):
    """What the callback needs of a LightningModule.

    Attributes:
        teachers: the names it knows.
        teacher: the one in charge.
    """

    teachers: list[str]
    teacher: str | None

    def restart_schedule(self) -> None:
        """Start the learning rate and its schedule anew."""

    def log(self, name: str, value: float, *, prog_bar: bool) -> None: ...


class ProgressiveStages(Callback):
    """Puts one teacher after the other in charge.

    Works on a module that is ``Taught``. The stage follows from the epoch alone, so a resumed run needs no state. Runs
    on the setup of fit, its start, and the starts of epochs and batches. Logs ``stage``; prints who takes over.

    Args:
        teachers: in the order in which they teach: streams (their networks' or heads' classifiers), ``own`` (each
            network's own classifier) or ``labels`` (cross-entropy).
        lengths: of the stages: numbers of epochs that add up to ``trainer.max_epochs``, or fractions of it that add up
            to 1. None: shares as equal as can be.
        restart_lr: whether every stage starts the learning rate and its schedule anew.

    Raises:
        ValueError: no teachers, or not one positive length for each.
    """

    def __init__(
        self, teachers: Sequence[str], lengths: list[int] | list[float] | None = None, *, restart_lr: bool = False
    ) -> None:
        self.teachers = list(teachers)
        self.lengths = [1 / len(self.teachers) for _ in self.teachers] if lengths is None else lengths
        self.restart_lr = restart_lr
        self.first_epochs: list[int] = []
        self.stage = 0
        self._announced: int | None = None
        self._logged_epoch: int | None = None
        if not self.teachers or len(self.lengths) != len(self.teachers) or min(self.lengths) <= 0:
            raise ValueError(
                "`stages`: expected at least one of `teachers`, and a positive length for each in `lengths`; came "
                f"{self.teachers} and {lengths}"
            )

    def stage_at(self, epoch: int) -> int:
        """The stage, from 0, that an epoch belongs to; known once the run is set up."""
        return sum(first <= epoch for first in self.first_epochs) - 1

    @override
    def setup(self, trainer: pl.Trainer, pl_module: Taught, stage: str) -> None:  # type: ignore[override]
        """Lay out the stages.

        Raises:
            ValueError: they do not add up to the run.
        """
        if stage == "fit":
            self.first_epochs = first_epochs(self.lengths, trainer.max_epochs)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: Taught) -> None:  # type: ignore[override]
        """Look for the teachers, among networks that are there by now.

        Raises:
            ValueError: a teacher the module does not know.
        """
        unknown = [teacher for teacher in self.teachers if teacher not in pl_module.teachers]
        if unknown:
            raise ValueError(f"`stages.teachers`: expected some of {list(pl_module.teachers)}, came {unknown}")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Taught) -> None:  # type: ignore[override]
        # A run that resumes within an epoch starts no epoch.
        self._logged_epoch = None
        self._put_in_charge(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Taught) -> None:  # type: ignore[override]
        stage = self._put_in_charge(trainer, pl_module)
        if stage and self.restart_lr and trainer.current_epoch == self.first_epochs[stage]:
            pl_module.restart_schedule()

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Taught, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if self._logged_epoch != trainer.current_epoch:  # it stands in the rows and lines of the epoch from then on
            self._logged_epoch = trainer.current_epoch
            pl_module.log("stage", float(self.stage + 1), prog_bar=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The stages, from which a resumed run must not differ, and the teacher in charge."""
        return {**self._layout, "stage": self.stage, "teacher": self.teachers[self.stage]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = {key: state_dict[key] for key in self._layout}
        if self.first_epochs and saved != self._layout:
            raise ValueError(
                f"the checkpoint has stages {saved}, `stages` gives {self._layout}; give the same `teachers`, "
                "`lengths` and `trainer.max_epochs`, or start anew"
            )

    @property
    def _layout(self) -> dict[str, Any]:
        return {"teachers": self.teachers, "first_epochs": self.first_epochs}

    def _put_in_charge(self, trainer: pl.Trainer, pl_module: Taught) -> int:
        self.stage = self.stage_at(trainer.current_epoch)
        pl_module.teacher = self.teachers[self.stage]
        if self._announced != self.stage:
            self._announced = self.stage
            trainer.print(self._describe(self.stage, trainer.max_epochs or 0))
        return self.stage

    def _describe(self, stage: int, max_epochs: int) -> str:
        first, behind = [*self.first_epochs, max_epochs][stage : stage + 2]
        of = f"stage {stage + 1} of {len(self.teachers)}"
        return f"{of}: {self.teachers[stage]} teaches in epochs {first + 1} to {behind}"


def first_epochs(lengths: Sequence[int | float], max_epochs: int | None) -> list[int]:
    """The epoch, from 0, at which each stage starts.

    [50, 50, 200] of 300 epochs, or [1/6, 1/6, 2/3] -> [0, 50, 100]

    Args:
        lengths: epochs that add up to ``max_epochs``, or fractions that add up to 1.
        max_epochs: of the run.

    Raises:
        ValueError: they do not add up, or a stage has no epoch.
    """
    if max_epochs is None or max_epochs < 1:
        raise ValueError(f"`stages` need the length of the run: set `trainer.max_epochs`, which is {max_epochs}")
    in_epochs = all(isinstance(length, int) for length in lengths)
    expected = max_epochs if in_epochs else 1
    if abs(sum(lengths) - expected) > 1e-6:
        raise ValueError(
            f"`stages.lengths`: expected epochs that add up to `trainer.max_epochs: {max_epochs}`, or fractions that "
            f"add up to 1, came {list(lengths)}, in all {sum(lengths)}"
        )
    bounds = [0, *accumulate(lengths)]
    starts = [round(bound * max_epochs / expected) for bound in bounds]
    if any(first == behind for first, behind in pairwise(starts)):
        raise ValueError(
            f"`stages.lengths`: expected at least one epoch for each of {len(lengths)} stages, "
            f"`trainer.max_epochs` is {max_epochs}"
        )
    return starts[:-1]
