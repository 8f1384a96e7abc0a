"""Checkpoints that a kill cannot tear.

Lightning's own writer goes through an fsspec transaction: the bytes land in the system's temporary folder and are
then moved, which across file systems is a plain copy onto the checkpoint. Killed there, it leaves a torn `last.ckpt`.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from datamodules.whole_file import open_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk, and renames it. Local files only."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with open_whole(str(path), "wb") as file:
            torch.save(checkpoint, file)
