"""The videos of a split as lazy clips: a worker finds out what to read, whoever uses them reads it."""

import time
from collections.abc import Sequence
from functools import partial

from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.bitstream import UnreadableVideoError
from datamodules.clip import LazyClip, LazyClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.epoch_sampler import Key
from datamodules.failure import Failure, failure_of
from datamodules.lazy_views import LazyViews
from datamodules.stream_views import normalise_view


class LazyClipDataset(Dataset[LazyClip | Failure]):
    """Lazy clips by key, of the same views as the samples of an evaluation.

    Args:
        dataset: gives those samples; not one that augments.
    """

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def __getitem__(self, key: Key | int) -> LazyClip | Failure:
        """The clip of a key (epoch, index), or an index; the failure where there is nothing to read."""
        index = key if isinstance(key, int) else key[1]
        began, record, reader = time.perf_counter(), self.dataset.records[index], self.dataset.reader
        try:
            source = LazyViews(reader, reader.plan(record.path), record.path)
        except (UnreadableVideoError, OSError) as error:
            return failure_of(record.path, error)
        seconds = time.perf_counter() - began
        return LazyClip(source, self.dataset.label(record), index, record.path, seconds)

    def collate(self, items: Sequence[LazyClip | Failure]) -> LazyClipBatch:
        """One batch of what there is to read."""
        return LazyClipBatch(
            clips=[item for item in items if isinstance(item, LazyClip)],
            shapes=self.dataset.reader.shapes,
            normalise=partial(normalise_view, self.dataset.reader.views),
            failures=[item for item in items if isinstance(item, Failure)],
            num_views=self.dataset.reader.num_views,
        )
