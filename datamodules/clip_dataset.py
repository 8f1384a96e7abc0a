"""The videos of a split as samples; what happens to those that cannot be read."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.annotations import VideoRecord
from datamodules.bitstream import UnreadableVideoError
from datamodules.clip import ClipBatch, ClipSample
from datamodules.clip_reader import ClipReader
from datamodules.epoch_sampler import Key
from datamodules.failure import Failure, failure_of
from datamodules.randomness import generator

_MAX_SUBSTITUTES = 10

# A sample, or why there is none.
Item = ClipSample | tuple[Failure, ...]


class ClipDataset(Dataset[Item]):
    """Samples by key (epoch, index), each a pure function of (seed, epoch, index).

    Args:
        records: the videos.
        reader: reads one.
        num_classes: length of multi-label vectors; 0 where there are none.
        augment: True (training): frames and geometry are drawn, and a video that cannot be read is replaced by
            another one that (seed, epoch, index) chooses. False: fixed views, and such a video is left out.
        seed: of what is drawn.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        reader: ClipReader,
        *,
        num_classes: int = 0,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        self.records, self.reader = records, reader
        self.num_classes, self.augment, self.seed = num_classes, augment, seed

    def __len__(self) -> int:
        return len(self.records)

    @override
    def __getitem__(self, key: Key | int) -> Item:
        """The sample of a key (epoch, index), or an index of epoch 0; the failures where nothing can be read."""
        epoch, index = (0, key) if isinstance(key, int) else key
        began, failures = time.perf_counter(), []
        for attempt in range(1 + _MAX_SUBSTITUTES if self.augment else 1):
            rng = generator(self.seed, epoch, index, attempt) if self.augment else None
            chosen = index if attempt == 0 or rng is None else int(rng.integers(len(self)))
            record = self.records[chosen]
            try:
                views = self.reader.read(record.path, rng)
            except (UnreadableVideoError, OSError) as error:
                failures.append(failure_of(record.path, error))
                continue
            seconds, label = time.perf_counter() - began, self.label(record)
            return ClipSample(
                views.streams,
                label,
                chosen,
                record.path,
                seconds,
                corrupt_frames=views.corrupt_frames,
                substituted=attempt > 0,
                failures=tuple(failures),
            )
        return tuple(failures)

    def collate(self, items: Sequence[Item]) -> ClipBatch:
        """One batch of what could be read."""
        samples = [item for item in items if isinstance(item, ClipSample)]
        failures = [failure for item in items if not isinstance(item, ClipSample) for failure in item]
        if not samples:
            views = 1 if self.augment else self.reader.num_views
            return ClipBatch.empty(self.reader.cut_shapes, failures, num_views=views)
        return ClipBatch.from_samples(samples, failures)

    def label(self, record: VideoRecord) -> Tensor:
        """() int64, or (num_classes,) float32 multi-hot."""
        if isinstance(record.label, int):
            return torch.tensor(record.label)
        label = torch.zeros(self.num_classes)
        label[list(record.label)] = 1
        return label
