"""The data of an experiment on videos: splits, loaders, and what happens to files that cannot be read.

How frames are read is up to the data modules that build on it, each for its kind of streams.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.annotations import Annotations, VideoRecord, find_videos
from datamodules.bitstream import UnreadableVideoError
from datamodules.bitstream.reader import OnCorrupt
from datamodules.clip import UNKNOWN_LABEL, ClipBatch, LazyClipBatch, parts_of
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_reader import ClipReader
from datamodules.epoch_sampler import EpochSampler
from datamodules.eval_loader import EvalDataLoader
from datamodules.failure import Failure
from datamodules.failure_ledger import FailureLedger
from datamodules.feature_store import FeatureDataset, FeatureStore
from datamodules.index_cache import IndexCache
from datamodules.lazy_clip_dataset import LazyClipDataset
from datamodules.low_resolution import LowResolution
from datamodules.option_checks import check_choice, check_counts, check_fractions
from datamodules.resumable_loader import ResumableDataLoader
from datamodules.sampling import FrameSampler, SamplingMode
from datamodules.shared_memory_collator import SharedMemoryCollator
from datamodules.stream_views import normalise_batch
from datamodules.tolerance import tolerated
from datamodules.transforms import FIXED_CROPS, CropOffsets, PixelCrop, RandomCrops, is_motion
from datamodules.video_source import ReencodeCache, VideoSource, default_reencode_dir
from datamodules.worker_signals import leave_signals_to_parent

FitSplit = Literal["train", "val"]
FitPart = Literal["train", "val"]  # what fit trains on, whichever split it is, and what it validates on
AnyDataset = ClipDataset | LazyClipDataset | FeatureDataset


class VideoDataModule(LightningDataModule):
    """Batches of clips (`ClipBatch`) for fit, validate, test and predict, straight from video files.

    Samples are a pure function of (seed, epoch, index): neither workers nor ranks nor a resume change them.
    Streams arrive normalised, of the Trainer's precision, on the device (`on_after_batch_transfer`).

    Args:
        annotations: which videos there are and what they show; not needed to predict.
        sizes: S per stream, see `ClipReader`.
        num_segments: T, frames per clip.
        make_reader: `ClipReader` with the options of its own that streams need.
        low_resolution: a smaller view of streams of frames (`<stream>`) beside the one of their size
            (`<stream>_high`), for a network that learns from one that sees the larger; None: one view of each.
        batch_size: videos per batch and process.
        eval_batch_size: the same for validate, test and predict; None: `batch_size`, and in test and predict as many
            fewer as it takes to have no more frames in a batch than training has (but one video at least).
        num_workers: processes that read, per process that computes.
        pin_memory: None: where there is a CUDA device.
        drop_last: whether a shuffled fit leaves out an incomplete last batch (never the only one).
        seed: of order, sampling, augmentation and substitutes.
        fit_split: what fit iterates; "val" for whatever is fitted on validation data, such as fusion weights.
        augment: whether fit draws frames and geometry, and replaces bad videos. None: on "train" alone. Off: videos
            are read as in validation.
        shuffle: whether fit has a new order every epoch, and leaves out what `drop_last` says. None: as `augment`.
            Off: every video once, in order; the first again where ranks would be one short.
        sampling: "segments": spread over the video; "dense": `frame_stride` apart.
        frame_stride: for "dense".
        window: frames in the middle of a video that alone are drawn from, where lengths give the classes away; None:
            the whole video.
        scales: of training crops, see `RandomCrops`.
        crop_offsets: of training crops, see `RandomCrops`.
        flip: probability of a horizontal flip in training; 0 where left and right matter.
        crop_fraction: side of evaluation crops as a fraction of the short side.
        pixel_crop: `height` and `width` of all crops in pixels, in place of `scales` and `crop_fraction`, where frame
            sizes give the classes away; `reach` limits how far off the centre they lie. Never squashed. A smaller
            video counts as unreadable.
        test_segments: T in test and predict; None: `num_segments`. CoViAR: 25.
        test_crops: 1, 3 or 10 views per clip in test and predict. CoViAR: 10.
        test_clips: clips per video in test and predict; views are clips times crops.
        predict_paths: files and folders (searched to any depth).
        reencode_dir: where to keep stand-ins for videos whose vectors or plain frames cannot be read (B-frames, other
            codecs; I-frames alone never need one). None: such videos count as unreadable, except in predict, which
            uses the user's cache folder.
        reencode_size: (width, height) in pixels of all videos: those of another size are read from stand-ins too.
            CoViAR: 340, 256. None: videos keep their size.
        index_cache: folder that keeps the videos' indices between runs, for all processes; None: for the run alone, in
            memory; what one worker has read, all of its process have, by a temporary file of 256 MB at most.
        on_corrupt: what to do about a damaged frame: "raise" counts its video as unreadable, "skip" lets the last
            intact frame before it in its GOP stand in, and names such videos in the logs and reports.
        lazy: whether test and predict give `LazyClipBatch`es, read and decoded by the model stream by stream, for
            networks with early exits (`WeightedInferenceModule`). Workers read its `first_stream`, which every video
            needs.
        max_bad_videos: unreadable videos that fit accepts in the training split, per process: a number, or a fraction
            (float) of the split, which always accepts one. Every batch must have a video that can be read.
    """

    def __init__(
        self,
        annotations: Annotations | None,
        sizes: dict[str, int],
        num_segments: int,
        *,
        make_reader: Callable[..., ClipReader] = ClipReader,
        low_resolution: LowResolution | None = None,
        batch_size: int = 40,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        drop_last: bool = True,
        seed: int = 0,
        fit_split: FitSplit = "train",
        augment: bool | None = None,
        shuffle: bool | None = None,
        sampling: SamplingMode = "segments",
        frame_stride: int = 8,
        window: int | None = None,
        scales: Sequence[float] = (1.0, 0.875, 0.75),
        crop_offsets: CropOffsets = "fixed",
        flip: float = 0.5,
        crop_fraction: float = 0.875,
        pixel_crop: PixelCrop | None = None,
        test_segments: int | None = None,
        test_crops: int = 1,
        test_clips: int = 1,
        predict_paths: Sequence[str] = (),
        reencode_dir: str | None = None,
        reencode_size: tuple[int, int] | None = None,
        index_cache: str | None = None,
        on_corrupt: OnCorrupt = "raise",
        lazy: bool = False,
        max_bad_videos: int | float = 0.05,
    ) -> None:
        super().__init__()
        check_choice("fit_split", fit_split, get_args(FitSplit))
        check_choice("sampling", sampling, get_args(SamplingMode))
        check_choice("on_corrupt", on_corrupt, get_args(OnCorrupt))
        check_choice("crop_offsets", crop_offsets, get_args(CropOffsets))
        check_choice("test_crops", test_crops, FIXED_CROPS)
        check_counts(num_segments=num_segments, batch_size=batch_size, frame_stride=frame_stride)
        check_counts(eval_batch_size=eval_batch_size, test_segments=test_segments, test_clips=test_clips)
        check_counts(window=window)
        check_fractions(scales=scales, crop_fraction=[crop_fraction], flip=[flip])
        _check_reencoding(reencode_dir, reencode_size)
        if low_resolution is not None:
            _check_low_resolution(low_resolution, sizes)
        self.annotations = annotations
        self.predict_paths = list(predict_paths)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.drop_last, self.seed = num_workers, drop_last, seed
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.fit_split: FitSplit = fit_split
        self.augment = fit_split == "train" if augment is None else augment
        self.shuffle = self.augment if shuffle is None else shuffle
        self.max_bad_videos, self.lazy = max_bad_videos, lazy
        stand_ins = None if reencode_dir is None else ReencodeCache(reencode_dir, reencode_size)
        self.reader = make_reader(
            source=VideoSource(parts_of(*sizes), IndexCache(index_cache), stand_ins, on_corrupt),
            sizes=sizes,
            sampler=FrameSampler(num_segments, sampling, frame_stride, window=window),
            random_crops=RandomCrops(tuple(scales), crop_offsets, flip),
            crop_fraction=crop_fraction,
            pixel_crop=pixel_crop,
            low=low_resolution,
        )
        self.eval_reader = self.reader
        self.test_reader = replace(
            self.reader,
            sampler=replace(self.reader.sampler, num_frames=test_segments or num_segments, num_clips=test_clips),
            num_crops=test_crops,
        )
        self._known_classes: list[str] | None = None
        self._records: dict[str, list[VideoRecord]] = {}
        self._ledgers: dict[str, FailureLedger] = {}
        self._features: dict[FitPart, FeatureStore] = {}

    @property
    def streams(self) -> list[str]:
        """Names of the streams in batches; the larger view of two is `<stream>_high`."""
        return list(self.reader.views)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of each of `streams`, as networks see it."""
        return {name: view.shape[1:] for name, view in self.reader.views.items()}

    @property
    def classes(self) -> list[str]:
        """Class names, of the annotations or (predict) of the checkpoint."""
        if self._known_classes is None:
            self._known_classes = list(self._annotations.classes)
        return self._known_classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def failures(self) -> list[Failure]:
        """The videos that this process could not read, by split and path."""
        return [failure for ledger in self._ledgers.values() for failure in ledger.failures]

    @property
    def damaged(self) -> list[str]:
        """The videos of which this process passed over damaged frames."""
        return [path for ledger in self._ledgers.values() for path in ledger.damaged]

    def records(self, split: str) -> list[VideoRecord]:
        """The videos of "train", "val", "test" or "predict"."""
        if split not in self._records:
            self._records[split] = self._list_records(split)
        return self._records[split]

    @override
    def setup(self, stage: str) -> None:
        """Lists the files; nothing is opened. What `serve_features` gave ends here."""
        self._features = {}
        splits = {"fit": self.fit_split, "validate": "val", "test": "test", "predict": "predict"}
        self.records(splits[stage])

    @override
    def train_dataloader(self) -> ResumableDataLoader:
        dataset = self._stored("train", self._dataset(self.fit_split, self.reader, augment=self.augment))
        sampler = self._sampler(dataset, shuffle=self.shuffle, repeat=not self.shuffle)
        drop_last = self.shuffle and self.drop_last and len(sampler) >= self.batch_size
        options = self._loader_options(dataset, sampler) | {"drop_last": drop_last}
        return ResumableDataLoader(dataset, batch_size=self.batch_size, **options)

    @override
    def val_dataloader(self) -> DataLoader:
        dataset = self._stored("val", self._dataset("val", self.eval_reader))
        return self._eval_loader(dataset, self._val_batch_size)

    @override
    def test_dataloader(self) -> DataLoader:
        return self._test_loader("test", self.test_reader)

    @override
    def predict_dataloader(self) -> DataLoader:
        source = self.test_reader.source
        source = replace(source, stand_ins=source.stand_ins or ReencodeCache(default_reencode_dir()))
        return self._test_loader("predict", replace(self.test_reader, source=source))

    def every_clip(self, part: FitPart) -> DataLoader:
        """The clips that a fit without augmentation sees, in file order; each rank has its share of them."""
        if part == "val":
            return self._eval_loader(self._dataset("val", self.eval_reader), self._val_batch_size)
        return self._eval_loader(self._dataset(self.fit_split, self.reader), self.batch_size)

    def serve_features(self, stores: Mapping[FitPart, FeatureStore]) -> None:
        """Gives the fit that is set up the features of its videos, in batches like those of their clips."""
        self._features = dict(stores)

    @override
    def on_after_batch_transfer(
        self, batch: ClipBatch | LazyClipBatch, dataloader_idx: int
    ) -> ClipBatch | LazyClipBatch:
        """Counts what could not be read, and normalises the streams; those of a lazy batch when they are read.

        Raises:
            TooManyBadVideosError: more than `max_bad_videos` of the training split in fit, or every video of an
                evaluation.
            UnreadableVideoError: no video of a batch of the training split could be read, nor any substitute.
        """
        split = self._current_split()
        if split is not None:
            self._count_unread(split, batch)
        if isinstance(batch, LazyClipBatch):
            batch = replace(batch, normalise=self._in_precision(batch.normalise))
            return batch if split is None else replace(batch, on_read=partial(self._count_unread, split))
        if split == "train" and not len(batch):
            raise _unreadable_batch(batch)
        if not batch.is_features:
            normalise_batch(self.reader.views, batch)
            batch.streams = {name: self._to_precision(frames) for name, frames in batch.streams.items()}
        return batch

    def _in_precision(self, normalise: Callable[[str, Tensor], Tensor]) -> Callable[[str, Tensor], Tensor]:
        return lambda stream, frames: self._to_precision(normalise(stream, frames))

    def _to_precision(self, frames: Tensor) -> Tensor:
        """Of the Trainer's, which itself has only seen bytes."""
        return frames if self.trainer is None else self.trainer.precision_plugin.convert_input(frames)

    @override
    def state_dict(self) -> dict[str, Any]:
        """`classes` and `sizes`, so that a checkpoint knows what its logits mean, and what the network saw."""
        return {"classes": self.classes, "sizes": {name: list(size) for name, size in self.sizes.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the class names of a checkpoint.

        Raises:
            ValueError: the data set at hand has others (not in predict, where none is needed).
        """
        stored = list(state_dict["classes"])
        if self._records.keys() - {"predict"} and self.classes != stored:
            raise ValueError(
                f"the checkpoint knows {len(stored)} classes, {_abridged(stored)}; the data has "
                f"{len(self.classes)}, {_abridged(self.classes)} (config key: data.annotations)"
            )
        self._known_classes = stored

    @cached_property
    def _annotations(self) -> Annotations:
        if self.annotations is None:
            raise ValueError("annotations: expected where the videos are and what they show, got none")
        return self.annotations

    def _list_records(self, split: str) -> list[VideoRecord]:
        if split != "predict":
            return self._annotations.records(split)  # type: ignore[arg-type]  # the annotations check it
        if not self.predict_paths:
            raise ValueError("predict_paths: expected files or folders with videos, got none")
        return [VideoRecord(path, UNKNOWN_LABEL) for path in find_videos(self.predict_paths)]

    def _dataset(self, split: str, reader: ClipReader, *, augment: bool = False) -> ClipDataset:
        records = self.records(split)
        num_classes = self.num_classes if any(isinstance(r.label, tuple) for r in records) else 0
        return ClipDataset(records, reader, num_classes=num_classes, augment=augment, seed=self.seed)

    def _stored(self, part: FitPart, dataset: ClipDataset) -> ClipDataset | FeatureDataset:
        return FeatureDataset(dataset, self._features[part]) if part in self._features else dataset

    def _sampler(self, dataset: AnyDataset, **order: bool) -> EpochSampler:
        ranks = self.trainer.world_size if self.trainer else 1
        return EpochSampler(len(dataset), seed=self.seed, num_replicas=ranks, rank=self._rank, **order)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _test_batch_size(self) -> int:
        """Videos; e.g. 40 x 3 frames in training and 25 x 10 per video in test: 1."""
        if self.eval_batch_size is not None:
            return self.eval_batch_size
        frames_per_video = self.test_reader.num_views * self.test_reader.sampler.num_frames
        videos = self.batch_size * self.reader.sampler.num_frames // frames_per_video
        return min(max(videos, 1), self.batch_size)

    @property
    def _val_batch_size(self) -> int:
        return self.eval_batch_size or self.batch_size

    def _test_loader(self, split: str, reader: ClipReader) -> DataLoader:
        samples = self._dataset(split, reader)
        dataset = LazyClipDataset(samples, self._read_ahead(reader)) if self.lazy else samples
        return self._eval_loader(dataset, self._test_batch_size)

    def _read_ahead(self, reader: ClipReader) -> str | None:
        """The stream that workers read of lazy clips: the one that the model needs of every video."""
        model = getattr(self.trainer, "lightning_module", None)
        first = getattr(model, "first_stream", None) if self.num_workers else None
        return first if first in reader.views else None

    def _eval_loader(self, dataset: AnyDataset, batch_size: int) -> DataLoader:
        options = self._loader_options(dataset, self._sampler(dataset, shuffle=False))
        return EvalDataLoader(dataset, batch_size=batch_size, **options)

    def _loader_options(self, dataset: AnyDataset, sampler: EpochSampler) -> dict[str, Any]:
        """A private generator: loading takes nothing from torch's global one, so that models can be resumed."""
        # Features come out of memory: another process would take as long to hand them over.
        num_workers = 0 if isinstance(dataset, FeatureDataset) else self.num_workers
        if num_workers:
            self.reader.source.indices.share()
        return {
            "sampler": sampler,
            "collate_fn": SharedMemoryCollator(dataset.collate),
            "num_workers": num_workers,
            "worker_init_fn": leave_signals_to_parent,
            "persistent_workers": num_workers > 0,
            "pin_memory": self.pin_memory,
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _current_split(self) -> str | None:
        """The split that the trainer's batches come from right now."""
        if self.trainer is None or self.trainer.state.stage is None:
            return None
        stages = {"train": self.fit_split, "validate": "val", "sanity_check": "val"}
        stage = str(self.trainer.state.stage.value)
        return stages.get(stage, stage)

    def _count_unread(self, split: str, batch: ClipBatch | LazyClipBatch) -> None:
        self._ledger(split).add(batch.failures)
        self._ledger(split).add_damaged(path for path, n in zip(batch.paths, batch.corrupt_frames, strict=True) if n)

    def _ledger(self, split: str) -> FailureLedger:
        if split not in self._ledgers:
            self._ledgers[split] = self._new_ledger(split)
        return self._ledgers[split]

    def _new_ledger(self, split: str) -> FailureLedger:
        """The training split accepts `max_bad_videos`, an evaluation all but one, predict any."""
        num_videos = len(self.records(split))
        if split == "predict":
            return FailureLedger(split, num_videos, limit=None)
        if split == "train":
            remedy = "mend the data, or raise max_bad_videos in the config"
            return FailureLedger(split, num_videos, limit=self._max_bad_videos(num_videos), remedy=remedy)
        return FailureLedger(split, num_videos, limit=num_videos - 1, remedy="check the paths of the annotations")

    def _max_bad_videos(self, num_videos: int) -> int:
        if isinstance(self.max_bad_videos, float):
            return max(tolerated(self.max_bad_videos, num_videos), 1)
        return self.max_bad_videos


def _check_reencoding(directory: str | None, size: tuple[int, int] | None) -> None:
    if size is not None and (len(size) != 2 or min(size) < 2 or any(side % 2 for side in size)):
        raise ValueError(f"reencode_size: expected an even width and height, got {size}")
    if size is not None and directory is None:
        raise ValueError(f"reencode_size: expected a reencode_dir to keep videos of {size[0]}x{size[1]} in, got none")


def _check_low_resolution(low: LowResolution, sizes: dict[str, int]) -> None:
    frames = {stream: size for stream, size in sizes.items() if not is_motion(stream)}
    if not frames:
        raise ValueError(f"low_resolution: expected iframe or rgb among streams, got {', '.join(sizes)}")
    if low.size > min(frames.values()):
        raise ValueError(f"low_resolution.size: expected at most that of the larger view, got {low} for size {frames}")


def _unreadable_batch(batch: ClipBatch) -> UnreadableVideoError:
    first = batch.failures[0]
    reason = f"neither this video nor any other of its training batch can be read ({first.reason})"
    return UnreadableVideoError(first.path, reason, "check the files that the config key annotations names")


def _abridged(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
