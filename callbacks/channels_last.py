"""Stores the weights of 2-D convolutions channels last (NHWC), which most CPUs and GPUs convolve faster."""

import lightning.pytorch as pl
import torch
from typing_extensions import override


class ChannelsLast(pl.Callback):
    """Converts the module's weights; activations follow them. Results agree up to rounding. Runs on `setup`."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)
