"""Randomness of a training step as a function of (seed, epoch, batch, rank).

Lightning restores no random state, so dropout after a resume would differ from an undisturbed run. Reseeding each
step needs no state at all: a step draws the same numbers however often its run was killed before it.
"""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from typing_extensions import override


def step_seed(seed: int, epoch: int, batch_idx: int, rank: int) -> int:
    """A well mixed 63-bit seed of four integers, each >= 0."""
    low, high = np.random.SeedSequence([seed, epoch, batch_idx, rank]).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


class StepSeeds(pl.Callback):
    """Seeds torch (CPU and GPU), numpy and python at the start of every training batch.

    With gradient accumulation every micro-batch has its own seed. Runs on `on_train_batch_start`, after the batch
    was loaded; costs some 50 microseconds.

    Args:
        seed: the run's seed, `seed_everything` of the config.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}; set seed_everything")
        self.seed = seed

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed = step_seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        _seed_torch(seed, pl_module.device)
        random.seed(seed)
        np.random.seed(seed % 2**32)


def _seed_torch(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` also seeds accelerators; for each that nothing has used yet it formats a stack."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
