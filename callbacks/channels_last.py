"""Stores the weights of 2-D convolutions channels last (NHWC), which most CPUs and GPUs convolve faster."""

from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_modules.networks.channels_last import store_channels_last


class ChannelsLast(pl.Callback):
    """Converts the module's weights; activations follow them. Results agree up to rounding.

    Runs on `setup`; where the module has its networks later, out of checkpoints, on `on_fit_start` of a fit and on
    `on_load_checkpoint` of its own. Twice is as good as once.
    """

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        store_channels_last(pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        store_channels_last(pl_module)

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        store_channels_last(pl_module)
