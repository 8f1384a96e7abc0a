"""Keeps on disk what frozen networks make of videos that are read alike in every epoch, so that it is made once.

Two files a split: `<key>.bin`, the features one after the other, a row of bytes for each video; and `<key>.json`, which
is written last and says what is in it. The key is a digest of all that the numbers depend on.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.clip import ClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.epoch_sampler import Key
from datamodules.failure import Failure
from datamodules.index_cache import file_stamp
from datamodules.whole_file import open_whole, written_whole

_VERSION = 1
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)


@dataclass(frozen=True)
class FeatureLayout:
    """How a feature of one video lies in memory; it comes back as it was, so that networks compute the same.

    Args:
        shape: (T, channels, h, w).
        dtype: e.g. "float32".
        channels_last: whether channels are the fastest to change.
    """

    shape: tuple[int, ...]
    dtype: str
    channels_last: bool

    @classmethod
    def of(cls, maps: Tensor) -> "FeatureLayout":
        """That of features (B, T, channels, h, w)."""
        frames = maps.flatten(0, 1)
        last = frames.is_contiguous(memory_format=torch.channels_last) and not frames.is_contiguous()
        return cls(tuple(maps.shape[1:]), str(maps.dtype).removeprefix("torch."), last)

    @property
    def num_bytes(self) -> int:
        """Of one video."""
        return torch.Size(self.shape).numel() * self._dtype.itemsize

    def to_rows(self, maps: Tensor) -> Tensor:
        """(B, T, channels, h, w) -> (B, bytes) uint8."""
        ordered = maps.permute(_CHANNELS_LAST) if self.channels_last else maps
        return ordered.contiguous().flatten(1).view(torch.uint8)

    def from_rows(self, rows: Tensor) -> Tensor:
        """(B, bytes) uint8 -> (B, T, channels, h, w)."""
        frames, channels, height, width = self.shape
        values = rows.view(self._dtype)
        if self.channels_last:
            return values.view(-1, frames, height, width, channels).permute(_CHANNELS_FIRST)
        return values.view(-1, frames, channels, height, width)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass
class UnreadVideos:
    """What there is to say of videos, by their position in the list of records.

    Args:
        failures: why a video could not be read.
        corrupt_frames: damaged frames for which earlier ones stand in, where there are any.
    """

    failures: dict[int, str] = field(default_factory=dict)
    corrupt_frames: dict[int, int] = field(default_factory=dict)

    def add(self, dataset: ClipDataset, batch: ClipBatch) -> None:
        """Takes in a batch of clips."""
        reasons = {failure.path: failure.reason for failure in batch.failures}
        if reasons:
            paths = enumerate(record.path for record in dataset.records)
            self.failures |= {place: reasons[path] for place, path in paths if path in reasons}
        counts = zip(batch.indices.tolist(), batch.corrupt_frames.tolist(), strict=True)
        self.corrupt_frames |= {place: count for place, count in counts if count}

    @classmethod
    def joined(cls, parts: Sequence["UnreadVideos"]) -> "UnreadVideos":
        """Those of all parts."""
        whole = cls()
        for part in parts:
            whole.failures |= part.failures
            whole.corrupt_frames |= part.corrupt_frames
        return whole


@dataclass(frozen=True)
class FeatureFile:
    """Where the features of a split are kept, and how they lie there.

    Args:
        path: `<folder>/<key>.bin`.
        num_videos: N, in the split.
        layouts: of each feature, by name.
    """

    path: Path
    num_videos: int
    layouts: Mapping[str, FeatureLayout]

    @property
    def num_bytes(self) -> int:
        """Of all features of all videos."""
        return self.num_videos * sum(layout.num_bytes for layout in self.layouts.values())

    @property
    def starts(self) -> dict[str, int]:
        """Where each feature begins, in bytes."""
        sizes = [self.num_videos * layout.num_bytes for layout in self.layouts.values()]
        return dict(zip(self.layouts, accumulate(sizes[:-1], initial=0), strict=True))

    @contextmanager
    def made_whole(self) -> Iterator[Path]:
        """Yields a file for `write`, which takes its place among the others when the block ends without an error."""
        with written_whole(self.path) as part:
            with open(part, "wb") as file:
                file.truncate(self.num_bytes)
            yield part

    def write(self, file: IO[bytes], indices: Sequence[int], features: Mapping[str, Tensor]) -> None:
        """Writes the features (B, T, channels, h, w) of B videos into a file that is open for reading and writing."""
        for name, layout in self.layouts.items():
            rows = layout.to_rows(features[name].detach().cpu()).numpy()
            for index, row in zip(indices, rows, strict=True):
                file.seek(self.starts[name] + index * layout.num_bytes)
                file.write(row)

    def finish(self, unread: UnreadVideos) -> None:
        """Says that the file is whole."""
        with open_whole(self.path.with_suffix(".json")) as file:
            json.dump(self._header | asdict(unread), file)

    def open(self) -> "FeatureStore | None":
        """What is kept, or None where it is not, or torn, or something else."""
        try:
            found = json.loads(self.path.with_suffix(".json").read_text())
            unread = UnreadVideos(*({int(k): v for k, v in found.pop(name).items()} for name in asdict(UnreadVideos())))
            if found != json.loads(json.dumps(self._header)) or self.path.stat().st_size != self.num_bytes:
                return None
            return FeatureStore(self, unread)
        except _UNUSABLE:
            return None

    @property
    def _header(self) -> dict[str, Any]:
        layouts = {name: asdict(layout) for name, layout in self.layouts.items()}
        return {"version": _VERSION, "num_videos": self.num_videos, "layouts": layouts}


class FeatureStore:
    """The features of a split, memory-mapped.

    Args:
        file: a whole one.
        unread: which videos have none.
    """

    def __init__(self, file: FeatureFile, unread: UnreadVideos) -> None:
        self.layouts, self.unread = file.layouts, unread
        data = torch.from_file(str(file.path), shared=False, size=file.num_bytes, dtype=torch.uint8)
        parts = data.split([file.num_videos * layout.num_bytes for layout in self.layouts.values()])
        self._rows = {name: part.view(file.num_videos, -1) for name, part in zip(self.layouts, parts, strict=True)}

    def read(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The features (B, T, channels, h, w) of B videos by name."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        rows = {name: rows.index_select(0, chosen) for name, rows in self._rows.items()}
        return {name: layout.from_rows(rows[name]) for name, layout in self.layouts.items()}


class FeatureDataset(Dataset[int]):
    """Batches of features in place of a dataset's clips. Items are places: a batch is read at once, where it is made.

    Args:
        dataset: whose labels and paths batches have.
        store: has the features of its videos.
    """

    def __init__(self, dataset: ClipDataset, store: FeatureStore) -> None:
        self.dataset, self.store = dataset, store

    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def __getitem__(self, key: Key) -> int:
        """The index of a key (epoch, index)."""
        return key[1]

    def collate(self, indices: Sequence[int]) -> ClipBatch:
        """One batch of those that could be read."""
        records, unread = self.dataset.records, self.store.unread
        found = [index for index in indices if index not in unread.failures]
        labels = [self.dataset.label(records[index]) for index in found]
        lost = [index for index in indices if index in unread.failures]
        return ClipBatch(
            streams=self.store.read(found),
            labels=torch.stack(labels) if labels else torch.empty(0, dtype=torch.int64),
            indices=torch.tensor(found, dtype=torch.int64),
            paths=[records[index].path for index in found],
            seconds=torch.zeros(len(found), dtype=torch.float64),
            corrupt_frames=torch.tensor([unread.corrupt_frames.get(i, 0) for i in found], dtype=torch.int64),
            substituted=torch.zeros(len(found), dtype=torch.bool),
            failures=[Failure(records[index].path, unread.failures[index]) for index in lost],
            is_features=True,
        )


def key_of(dataset: ClipDataset, **conditions: Any) -> str:
    """A digest of what features depend on: videos and how they are read, and further conditions, as JSON has them."""
    paths = [os.path.abspath(record.path) for record in dataset.records]
    conditions |= {"version": _VERSION, "reader": dataset.reader.recipe, "videos": [(p, file_stamp(p)) for p in paths]}
    return hashlib.sha256(json.dumps(conditions, sort_keys=True, default=str).encode()).hexdigest()[:32]
