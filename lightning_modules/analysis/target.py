"""What a LightningModule offers to be analysed: its networks, by name, and the streams that they see."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from lightning_modules.analysis.loss_surface import LossFunction, cross_entropy


@dataclass(frozen=True)
class AnalysisTarget:
    """A model, the stream that it sees, and what of it learns from which loss.

    Flatness needs all of it; pictures of what a network looks at need a ``Backbone`` and its stream.

    Args:
        model: clips (B, T, C, H, W) -> logits (B, num_classes), or (B, K, num_classes) of K exits.
        stream: the stream of the batches that it sees.
        parameters: names within the model of those that learn; None: all. The others are held fixed.
        loss: of logits and labels; for the internal classifiers of an ``EarlyExitNetwork`` leave out the frozen last
            exit: ``lambda logits, labels: cross_entropy(logits[:, :-1], labels)``.
    """

    model: nn.Module
    stream: str
    parameters: Collection[str] | None = None
    loss: LossFunction = cross_entropy


class OffersAnalysisTargets(Protocol):
    """A LightningModule that says what of it there is to analyse, by name."""

    def analysis_targets(self) -> dict[str, AnalysisTarget]: ...
