"""What a network says about a batch of videos."""

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from datamodules.failure import Failure


@dataclass
class Predictions:
    """Logits of the B videos of one batch; B may be 0.

    Args:
        paths: the B files.
        logits: (B, num_classes) float32.
        seconds: (B,) float64, time spent reading each file.
        failures: videos that could not be read.
        exits: names of the exits that the B videos left at; empty of networks without.
        exit_logits: (K, B, num_classes) float32, of each exit alone, of an evaluation that runs all; None of others.
    """

    paths: list[str]
    logits: Tensor
    seconds: Tensor
    failures: list[Failure]
    exits: list[str] = field(default_factory=list)
    exit_logits: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Predictions":
        """The same on another device."""
        logits, seconds = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.logits, self.seconds))
        alone = None if self.exit_logits is None else self.exit_logits.to(device, non_blocking=non_blocking)
        return dataclasses.replace(self, logits=logits, seconds=seconds, exit_logits=alone)
