"""The videos of a split as lazy clips: a worker finds out what to read, whoever uses them reads it.

What every video needs, the stream of the first exit, a worker may read as well.
"""

import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.bitstream import UnreadableVideoError
from datamodules.clip import LazyClip, LazyClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.epoch_sampler import Key
from datamodules.failure import Failure, failure_of
from datamodules.lazy_views import LazyViews
from datamodules.stream_views import normalise_view

# A clip, and its views of the stream that is read ahead; or why there is none.
Item = tuple[LazyClip, Tensor | None] | Failure


class LazyClipDataset(Dataset[Item]):
    """Lazy clips by key, of the same views as the samples of an evaluation.

    Args:
        dataset: gives those samples; not one that augments.
        ahead: the stream that is read here; None: none is.
    """

    def __init__(self, dataset: ClipDataset, ahead: str | None = None) -> None:
        self.dataset, self.ahead = dataset, ahead

    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def __getitem__(self, key: Key | int) -> Item:
        """The clip of a key (epoch, index), or an index; the failure where there is nothing to read."""
        index = key if isinstance(key, int) else key[1]
        began, record, reader = time.perf_counter(), self.dataset.records[index], self.dataset.reader
        try:
            source = LazyViews(reader, reader.plan(record.path), record.path)
        except (UnreadableVideoError, OSError) as error:
            return failure_of(record.path, error)
        seconds = time.perf_counter() - began
        views = None if self.ahead is None else source.read_alone(self.ahead)
        if isinstance(views, Failure):
            return views
        return LazyClip(source, self.dataset.label(record), index, record.path, seconds), views

    def collate(self, items: Sequence[Item]) -> LazyClipBatch:
        """One batch of what there is to read."""
        clips = [item for item in items if not isinstance(item, Failure)]
        read = [views for _, views in clips if views is not None]
        return LazyClipBatch(
            clips=[clip for clip, _ in clips],
            shapes=self.dataset.reader.shapes,
            normalise=partial(normalise_view, self.dataset.reader.views),
            failures=[item for item in items if isinstance(item, Failure)],
            num_views=self.dataset.reader.num_views,
            ahead={self.ahead: torch.cat(read)} if self.ahead is not None and read else {},
        )
