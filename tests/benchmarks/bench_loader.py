"""The loader: samples a second against bare reading, what passes between processes, other decoders.

`CompressedVideoDataModule` with 3 segments of I-frame, vectors and residual at 224 pixels, train transforms, batches of
32, on 340x256 videos with GOPs of 12, one for each of its samples. Its baseline reads and cuts the same samples in as
many processes, without batches and without a queue. `MultiResolutionDataModule` reads 8 plain frames a video.
Run by `make bench`.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import count, cycle
from pathlib import Path
from typing import Any

from bare_processes import BareProcesses
from bench_rows import Effort, Row, row
from encoded_videos import copies, encoded
from interleaved import Job, in_turns, over

from datamodules.annotations import ClassFolders
from datamodules.bitstream.encode import Codec
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_reader import Backend
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.multi_resolution import MultiResolutionDataModule
from datamodules.randomness import generator
from datamodules.resumable_loader import ResumableDataLoader
from datamodules.shared_memory_collator import SharedMemoryCollator
from datamodules.stream_views import normalise_batch
from datamodules.video_data_module import VideoDataModule

PART = "loader"
STREAMS = ("iframe", "mv", "residual")
NUM_VIDEOS, BATCH_SIZE, SIZE = 128, 32, 224
WORKERS = (0, 1, 2)
QUEUE_TARGET = 1.25e6  # bytes a sample
BACKENDS: tuple[Backend, ...] = ("pyav", "decord") if find_spec("decord") else ("pyav",)
HAS_TORCHCODEC = find_spec("torchcodec") is not None
CODECS: tuple[Codec, ...] = ("mpeg4", "h264")


def videos_in(folder: Path, codec: Codec = "mpeg4", number: int = NUM_VIDEOS) -> ClassFolders:
    """So many copies of the synthetic scene, one class."""
    originals, target = folder / f"originals_{codec}", folder / codec / "train" / "scene"
    for made in (originals, target):
        made.mkdir(parents=True)
    copies([Path(path) for path in encoded([], codec, originals)], number, target)
    return ClassFolders(str(folder / codec))


def compressed(
    annotations: ClassFolders, streams: Sequence[str] = STREAMS, **options: Any
) -> CompressedVideoDataModule:
    data = CompressedVideoDataModule(annotations, streams, 3, SIZE, batch_size=BATCH_SIZE, **options)
    data.setup("fit")
    return data


class Epochs:
    """Epochs of a data module's loader, its workers kept, and of bare processes that read the same samples.

    Args:
        data: set up.
    """

    def __init__(self, data: VideoDataModule) -> None:
        self.loader: ResumableDataLoader = data.train_dataloader()
        self.dataset: ClipDataset = self.loader.dataset  # type: ignore[assignment]
        self.bare = BareProcesses(self.dataset, data.num_workers, BATCH_SIZE)
        self._loaded, self._read = count(), count()

    def load(self) -> None:
        """The next epoch, through the loader."""
        self.loader.sampler.set_epoch(next(self._loaded))  # type: ignore[attr-defined]
        for _ in self.loader:
            pass

    def read(self) -> None:
        """The next epoch, by the bare processes."""
        sampler = self.loader.sampler
        sampler.set_epoch(next(self._read))  # type: ignore[attr-defined]
        self.bare.read(list(sampler))


def against_bare(annotations: ClassFolders, effort: Effort) -> Iterator[Row]:
    """Throughput of the loader over that of bare processes, by workers."""
    epochs = {workers: Epochs(compressed(annotations, num_workers=workers)) for workers in WORKERS}
    jobs: dict[tuple[int, str], Job] = {}
    for workers, each in epochs.items():
        jobs |= {(workers, "loader"): each.load, (workers, "bare"): each.read}
    taken = in_turns(jobs, effort.rounds(6), name="loader")
    for workers, each in epochs.items():
        each.bare.close()
        speeds = over(taken, (workers, "loader"))[workers, "bare"]
        figure = f"{NUM_VIDEOS / statistics.median(taken[workers, 'loader']):.0f} samples/s"
        processes = f"reader and transforms, {workers} processes" if workers else "reader and transforms, in place"
        yield row(PART, f"samples/s, {workers} workers", processes, speeds, figure, at_least=0.85)


def bytes_a_sample(dataset: ClipDataset) -> Row:
    """What goes from worker to main process: pickled by a queue, and in shared memory."""
    batch = dataset.collate([dataset[number] for number in range(BATCH_SIZE)])
    packed = SharedMemoryCollator(dataset.collate).packed(batch)
    pickled, shared = (len(part) / len(batch) for part in (packed.pickled, packed.block))
    figure = f"{(pickled + shared) / 1e6:.3f} MB, {pickled:.0f} B of it pickled"
    ratio = (pickled + shared) / QUEUE_TARGET
    return row(PART, "bytes from worker to main process, a sample", "1.25 MB", [ratio], figure, at_most=1.0)


def opening(dataset: ClipDataset, effort: Effort) -> Row:
    """What it takes to open a video whose index is known, beside reading its sample: both with and without opening."""
    source, paths = dataset.reader.source, [record.path for record in dataset.records[:16]]
    kept = {path: source.open(path) for path in paths}
    turns = cycle(paths)

    def opened() -> None:
        with source.open(next(turns)) as video:
            video.read(gop=0, streams=("iframe",))

    def open_already() -> None:
        kept[next(turns)].read(gop=0, streams=("iframe",))

    def sample() -> None:
        dataset.reader.read(next(turns), generator(0, next(draws)))

    draws = count()
    taken = in_turns({"opened": opened, "kept": open_already, "sample": sample}, effort.rounds(96), clock=effort.clock)
    whole = statistics.median(taken["sample"])
    found = [(a - b) / whole for a, b in zip(taken["opened"], taken["kept"], strict=True)]
    figure = f"{1e6 * statistics.median(found) * whole:.0f} us of {1e3 * whole:.1f} ms"
    return row(PART, "opening a video again, index kept", "reading its sample", found, figure, at_most=0.02)


def second_epoch(annotations: ClassFolders, effort: Effort) -> Row:
    """Reading in the second epoch over reading in later ones, by the workers' own clocks: are indices still made?"""
    found = []
    for _ in range(effort.rounds(6)):
        epochs = Epochs(compressed(annotations, num_workers=2))
        times = [reading_time(epochs.loader, epoch) for epoch in range(6)]
        found.append(times[1] / statistics.median(times[2:]))
    figure = "index_cache: null; workers share their indices"
    return row(PART, "a sample's reading in the 2nd epoch, 2 workers", "in the 3rd to 6th", found, figure, at_most=1.02)


def reading_time(loader: ResumableDataLoader, epoch: int) -> float:
    """Seconds that workers spent on the samples of an epoch."""
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return float(sum(batch.seconds.sum() for batch in loader))


def normalising(data: VideoDataModule, dataset: ClipDataset, effort: Effort) -> Row:
    """What the main process does to a batch on a CPU."""
    batch = dataset.collate([dataset[number] for number in range(BATCH_SIZE)])
    streams = batch.streams

    def normalise() -> None:
        batch.streams = streams
        normalise_batch(data.reader.views, batch)

    def read() -> None:
        for number in range(BATCH_SIZE):
            dataset[number]

    taken = in_turns({"normalise": normalise, "read": read}, effort.rounds(8), clock=effort.clock)
    figure = f"{1e3 * statistics.median(taken['normalise']) / BATCH_SIZE:.2f} ms a sample"
    return row(PART, "normalising on the CPU", "reading", over(taken, "read")["normalise"], figure)


def decoders(folder: Path, codec: Codec, effort: Effort) -> Iterator[Row]:
    """Epochs of `MultiResolutionDataModule` by decoder, one worker; torchcodec beside it, where it is installed."""
    annotations = videos_in(folder, codec, NUM_VIDEOS // 2)
    epochs = {backend: Epochs(plain_frames(annotations, backend)) for backend in BACKENDS}
    taken = in_turns({backend: each.load for backend, each in epochs.items()}, effort.rounds(4), name=codec)
    speed = f"{len(epochs['pyav'].dataset) / statistics.median(taken['pyav']):.0f} samples/s"
    note = "" if HAS_TORCHCODEC else "; torchcodec is not installed, and not compared"
    for backend in BACKENDS[1:]:
        job = f"8 plain frames of {codec}, samples/s by PyAV"
        yield row(PART, job, f"by {backend}", over(taken, "pyav")[backend], speed + note)
    if HAS_TORCHCODEC:
        yield against_torchcodec(annotations, codec, effort)


def plain_frames(annotations: ClassFolders, backend: Backend) -> MultiResolutionDataModule:
    data = MultiResolutionDataModule(annotations, batch_size=BATCH_SIZE, num_workers=1, backend=backend)
    data.setup("fit")
    return data


def against_torchcodec(annotations: ClassFolders, codec: Codec, effort: Effort) -> Row:
    """Decoding alone, of 8 frames of a video that is opened for them; its index is kept."""
    from torchcodec.decoders import VideoDecoder

    reader, path = plain_frames(annotations, "pyav").eval_reader, annotations.records("train")[0].path
    numbers = [
        int(frame) for frame in reader.sampler.draw(reader.plan(path).video.num_frames, motion=False, rng=None)[0]
    ]

    def ours() -> None:
        plan = reader.plan(path)
        with plan.video:
            reader.collect(plan)

    def theirs() -> None:
        VideoDecoder(path, num_ffmpeg_threads=1).get_frames_at(numbers)

    taken = in_turns({"ours": ours, "theirs": theirs}, effort.rounds(20), clock=effort.clock)
    job = f"8 plain frames of {codec}, speed of decoding by PyAV"
    return row(PART, job, "by torchcodec", over(taken, "ours")["theirs"])


def measure(effort: Effort) -> Iterator[Row]:
    """All rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = videos_in(folder)
        yield from against_bare(annotations, effort)
        data = compressed(annotations)
        dataset: ClipDataset = data.train_dataloader().dataset  # type: ignore[assignment]
        yield bytes_a_sample(dataset)
        yield opening(dataset, effort)
        yield second_epoch(annotations, effort)
        yield normalising(data, dataset, effort)
        for codec in CODECS:
            yield from decoders(folder / "plain", codec, effort)
