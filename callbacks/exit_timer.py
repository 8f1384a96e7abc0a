"""Seconds to each exit on some videos of a test, read lazily in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.spread_videos import spread
from datamodules.clip import LazyClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.index_cache import IndexCache
from datamodules.lazy_clip_dataset import LazyClipDataset
from lightning_modules.analysis.exit_seconds import seconds_to_exits
from lightning_modules.networks.early_exit import EarlyExitNetworks

TIMED_ROUNDS = 3


class ExitTimer:
    """Measures ensembles on some of the videos that a test could read.

    Args:
        loader: of the test.
        indices: of those videos.
        count: how many of them; fewer where there are not as many, none of data that cannot be read lazily.
    """

    def __init__(self, loader: DataLoader, indices: Tensor, count: int) -> None:
        self.dataset = loader.dataset if isinstance(loader.dataset, ClipDataset) else None
        places = [] if self.dataset is None else spread(len(indices), count)
        self.indices = [int(indices[place]) for place in places]
        self.batch_size = max(1, min(loader.batch_size or 1, len(places)))

    def __len__(self) -> int:
        return len(self.indices)

    def seconds(self, networks: EarlyExitNetworks, weights: Tensor) -> list[float] | None:
        """Of a video to each exit, None if there are no videos."""
        if not self.indices:
            return None
        rounds = (self._batches(list(networks.networks), weights.device) for _ in range(TIMED_ROUNDS))
        return seconds_to_exits(networks, weights, rounds).tolist()

    def _batches(self, streams: Sequence[str], device: torch.device) -> Iterator[LazyClipBatch]:
        assert self.dataset is not None
        dataset = _lazily(self.dataset, streams)
        for start in range(0, len(self), self.batch_size):
            indices = self.indices[start : start + self.batch_size]
            yield dataset.collate([dataset[index] for index in indices]).to(device)


def _lazily(dataset: ClipDataset, streams: Sequence[str]) -> LazyClipDataset:
    """Videos whose indices nobody keeps in memory, of these streams alone."""
    reader = dataset.reader.narrowed(streams)
    source = replace(reader.source, indices=IndexCache(reader.source.indices.directory))
    return LazyClipDataset(ClipDataset(dataset.records, replace(reader, source=source)))
