"""Videos of the demo's splits, read without a loader; with or without indices that were made before."""

from dataclasses import replace

from datamodules.clip import ClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.index_cache import IndexCache
from datamodules.stream_views import normalise_batch


def load_split(data: CompressedVideoDataModule, split: str) -> ClipDataset:
    """Of "val" or "test", as an evaluation reads it."""
    data.setup({"val": "validate"}.get(split, split))
    return data.val_dataloader().dataset if split == "val" else data.test_dataloader().dataset  # type: ignore[return-value]


def read(dataset: ClipDataset, numbers: range) -> ClipBatch:
    """One normalised batch."""
    return normalise_batch(dataset.reader.views, dataset.collate([dataset[number] for number in numbers]))


def forgetful(dataset: ClipDataset) -> ClipDataset:
    """The same, which keeps no index."""
    source = replace(dataset.reader.source, indices=IndexCache(capacity=0))
    return ClipDataset(dataset.records, replace(dataset.reader, source=source))
