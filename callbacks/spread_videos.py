"""A few videos, spread evenly over a split, for callbacks that look at networks on samples."""

from dataclasses import replace
from typing import Literal

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch

Split = Literal["val", "test"]


def spread(size: int, count: int) -> list[int]:
    """Places spread evenly over 0 to ``size - 1``: the middles of ``count`` parts; all where there are fewer."""
    count = min(size, count)
    return [(2 * index + 1) * size // (2 * count) for index in range(count)]


def read_spread(trainer: pl.Trainer, split: Split, count: int, *, batch_size: int, reader: str) -> list[ClipBatch]:
    """Videos spread evenly over a split: splits often list one class after the other.

    Args:
        trainer: has the DataModule.
        split: is read as ``validate`` and ``test`` read it.
        count: videos; all of the split where it has fewer. Those that cannot be read are left out.
        batch_size: videos.
        reader: name of the callback that asks, for messages.

    Returns:
        Batches on the device and normalised, each of one video or more.

    Raises:
        ValueError: there is no DataModule.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        raise ValueError(f"{reader} reads videos from a DataModule with `{split}_dataloader`, came none (`data`)")
    datamodule.setup({"val": "validate", "test": "test"}[split])
    loader = getattr(datamodule, f"{split}_dataloader")()
    indices = spread(len(loader.dataset), count)
    batches = DataLoader(loader.dataset, batch_size, sampler=indices, collate_fn=loader.collate_fn)
    # Onto the device, and normalised by the hooks; what cannot be read is left out here, and `validate` lists it.
    return [trainer.strategy.batch_to_device(replace(batch, failures=[])) for batch in batches if len(batch)]
