"""Batches of noise, to time what is computed on them."""

from collections.abc import Mapping

import torch

from datamodules.clip import ClipBatch


def random_batch(batch_size: int, num_segments: int, streams: Mapping[str, tuple[int, int]]) -> ClipBatch:
    """Normalised clips, labelled 0; `streams` has the channels and the side of each."""
    return ClipBatch(
        streams={s: torch.randn(batch_size, num_segments, c, side, side) for s, (c, side) in streams.items()},
        labels=torch.zeros(batch_size, dtype=torch.int64),
        indices=torch.arange(batch_size),
        paths=[""] * batch_size,
        seconds=torch.zeros(batch_size, dtype=torch.float64),
        corrupt_frames=torch.zeros(batch_size, dtype=torch.int64),
        substituted=torch.zeros(batch_size, dtype=torch.bool),
    )
