"""What modules log of training, at little cost to each step."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override


class RunningMeans(Metric):
    """Means of named values over the videos of an epoch, of all ranks; cheaper at every step than `self.log` is."""

    sums: Tensor
    num_videos: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("sums", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor], num_videos: int) -> None:
        """Take in means over a batch, () float by name; the names are those of every batch."""
        self.names = tuple(values)
        self.sums = self.sums + num_videos * torch.stack(list(values.values())).detach()
        self.num_videos += num_videos

    def compute(self) -> dict[str, Tensor]:
        """() float32 by name."""
        return dict(zip(self.names, (self.sums / self.num_videos).unbind(), strict=True))


class TrainingLog(LightningModule):
    """A module that logs means over every epoch, and now and then the loss of a step to the progress bar alone.

    Steps outside of a Trainer log nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.train_means = RunningMeans()

    def log_training(self, terms: Mapping[str, Tensor], num_videos: int, batch_idx: int, **others: Tensor) -> Tensor:
        """Take in a step.

        Args:
            terms: of the loss, () means over the batch, logged as ``train/loss/<name>``.
            num_videos: in the batch.
            batch_idx: number of the batch in its epoch, from 0.
            others: further () means over it, logged as ``train/<name>``.

        Returns:
            The loss, the sum of its terms, logged as ``train/loss``.
        """
        loss = total(terms)
        values = {"loss": loss} | {f"loss/{name}": term for name, term in terms.items()} | others
        self.train_means.update({f"train/{name}": value for name, value in values.items()}, num_videos)
        trainer = self._trainer
        if trainer is not None and batch_idx % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, logger=False)
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_means.compute())
        self.train_means.reset()


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss, each ()."""
    return torch.stack(list(terms.values())).sum()
