"""Inference on the demo's test videos, from file to label, against what one would do without compressed streams.

One video at a time in one process, no index kept: single streams, all three, early exits at several thresholds, and the
I-frame network on RGB frames out of PyAV, either by decoding everything or by seeking to as many frames, written as its
documentation does, and tuned (`plain_pyav.py`). Each round has videos of its own, so that accuracies are of all of
them. The threshold "as accurate as RGB" is the lowest at which exits are better than these two on the validation split
by a standard error, so that they may be expected to be no worse on other videos. Then whole `predict` runs in batches,
against the same two in batches out of PyTorch's loader: each in one process, and each with a worker that reads. Run by
`make bench`, after `make demo`.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import count, cycle

import lightning.pytorch as pl
import numpy as np
import torch
from bench_rows import Effort, Row, row
from demo_labellers import (
    ROOT,
    SEGMENTS,
    SIZE,
    STREAMS,
    Labeller,
    by_all_streams,
    by_exits,
    by_stream,
    combined,
    dataset_of,
    middles,
    recogniser,
    without_streams,
)
from demo_split import read
from interleaved import Job, in_turns, over
from plain_pyav import by_kept_converter, decode_all_rgb, keyframes_rgb, seek_frames_rgb
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from callbacks.prediction_writer import PredictionWriter
from datamodules.annotations import ClassFolders
from datamodules.clip_dataset import ClipDataset
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.transforms import normalise
from lightning_modules.analysis.trade_off import ExitCosts, sweep

PART = "inference"
EVERYTHING, SEEK = "decoding everything to RGB", "seeking to as many RGB frames"
OTHERS: dict[str, Callable[[str], list[np.ndarray]]] = {
    EVERYTHING: decode_all_rgb,
    SEEK: partial(seek_frames_rgb, parts=SEGMENTS),
    f"{EVERYTHING}, tuned": partial(decode_all_rgb, convert=by_kept_converter),
    f"{SEEK}, tuned": partial(seek_frames_rgb, parts=SEGMENTS, convert=by_kept_converter),
    "keyframes alone by PyAV, tuned": partial(keyframes_rgb, convert=by_kept_converter),
}
TUNED = (f"{EVERYTHING}, tuned", f"{SEEK}, tuned")
TARGETS = {EVERYTHING: 3.0, SEEK: 1.5, **dict(zip(TUNED, (3.0, 1.5), strict=True))}
VIDEOS, ROUNDS, BATCH_SIZE = 60, 19, 32  # with the round that does not count, all 1,200 videos
THRESHOLDS = (0.5, 0.8, 0.95, 1.0)


class Race:
    """Labels one slice of a split after the other, each labeller in its turn.

    Args:
        labellers: by name.
        dataset: of the split.
        effort: how many slices.
    """

    def __init__(self, labellers: dict[str, Labeller], dataset: ClipDataset, effort: Effort) -> None:
        self._labels = [record.label for record in dataset.records]
        self._size = len(dataset)
        self._right: dict[str, list[bool]] = {name: [] for name in labellers}
        jobs: dict[str, Job] = {name: partial(self._label, name, label, count()) for name, label in labellers.items()}
        self.taken = in_turns(jobs, effort.rounds(ROUNDS), clock=effort.clock, name="inference")

    def top1(self, name: str) -> float:
        """Percent, of all videos that were timed."""
        return 100 * statistics.mean(self._right[name])

    def milliseconds(self, name: str) -> float:
        """Of a video."""
        return 1e3 * statistics.median(self.taken[name]) / VIDEOS

    def _label(self, name: str, label: Labeller, turns: Iterator[int]) -> None:
        start = next(turns)
        for number in range(VIDEOS):
            place = (start + number * (self._size // VIDEOS)) % self._size
            self._right[name].append(label(place) == self._labels[place])


def labellers() -> dict[str, Labeller]:
    """All that race, on the test split."""
    dataset = dataset_of("test", *STREAMS)
    chosen, equal = combined("wise").chosen["scaled"], equal_threshold()
    thresholds = {f"exits, threshold {value:g}": value for value in THRESHOLDS}
    thresholds |= {f"exits, chosen threshold {chosen:g}": chosen, as_accurate(equal): equal}
    return {
        **{f"{stream} alone": by_stream("test", stream) for stream in STREAMS},
        "iframe, mv and residual": by_all_streams("test"),
        **{name: by_exits("test", value) for name, value in thresholds.items()},
        **{name: without_streams(dataset.records, frames_of) for name, frames_of in OTHERS.items()},
    }


def as_accurate(threshold: float) -> str:
    return f"exits, threshold {threshold:g}, as accurate as RGB"


def equal_threshold() -> float:
    """The lowest at which early exits are a standard error above the better of the two on RGB, on validation videos."""
    dataset, module = dataset_of("val", *STREAMS), combined("wise")
    labels = torch.tensor([record.label for record in dataset.records])
    parts = [read(dataset, range(start, min(start + 24, len(dataset)))) for start in range(0, len(dataset), 24)]
    logits = torch.cat([module.exit_logits(batch) for batch in parts], dim=1)
    others = [without_streams(dataset.records, OTHERS[name]) for name in (EVERYTHING, SEEK)]
    best = max(top1_of(label, labels) for label in others)
    needed = best + (best * (1 - best) / len(labels)) ** 0.5
    points = sweep(logits, labels, module.weights, ExitCosts(range(len(logits))))
    return min((point.threshold for point in points if point.top1 >= needed), default=1.0)


def top1_of(label: Labeller, labels: torch.Tensor) -> float:
    return statistics.mean(label(number) == int(right) for number, right in enumerate(labels))


def latencies(effort: Effort) -> Iterator[Row]:
    """Speed of all that is ours, over each of the others."""
    racers = labellers()
    race = Race(racers, dataset_of("test", *STREAMS), effort)
    for other in OTHERS:
        baseline = f"{other}, {race.milliseconds(other):.1f} ms, top-1 {race.top1(other):.1f} %"
        for name in [name for name in racers if name not in OTHERS]:
            is_equal = name.endswith("as accurate as RGB")
            if other not in (EVERYTHING, SEEK) and not is_equal and name != "iframe alone":
                continue  # those it can be compared with
            aimed = TARGETS.get(other) if is_equal else None
            figure = f"{race.milliseconds(name):.1f} ms, top-1 {race.top1(name):.1f} %"
            yield row(PART, f"speed: {name}", baseline, over(race.taken, name)[other], figure, at_least=aimed)


def predict(module: pl.LightningModule, data: CompressedVideoDataModule) -> None:
    """As the command does it, with the table that it prints."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(callbacks=[PredictionWriter(f"{folder}/predictions.jsonl")], **options)  # type: ignore[arg-type]
        trainer.predict(module, datamodule=data, return_predictions=False)


def predict_videos(paths: Sequence[str], threshold: float, *, lazy: bool = True, num_workers: int = 0) -> None:
    options = {"batch_size": BATCH_SIZE, "predict_paths": paths, "lazy": lazy, "num_workers": num_workers}
    data = CompressedVideoDataModule(ClassFolders(str(ROOT)), STREAMS, SEGMENTS, SIZE, **options)  # type: ignore[arg-type]
    module = combined("wise")
    module.threshold = threshold
    predict(module, data)


class MiddleFrames(Dataset[Tensor]):
    """RGB frames of videos, (T, 3, S, S) uint8 each."""

    def __init__(self, paths: Sequence[str], frames_of: Callable[[str], list[np.ndarray]]) -> None:
        self._paths, self._frames_of = paths, frames_of

    def __len__(self) -> int:
        return len(self._paths)

    @override
    def __getitem__(self, number: int) -> Tensor:
        return middles(self._frames_of(self._paths[number]))


def classify_videos(
    paths: Sequence[str], frames_of: Callable[[str], list[np.ndarray]], *, num_workers: int = 0
) -> None:
    network = recogniser("iframe").network
    for clips in DataLoader(MiddleFrames(paths, frames_of), BATCH_SIZE, num_workers=num_workers):
        network(normalise("rgb", clips))


def by_thirds(run: Callable[[Sequence[str]], None], paths: Sequence[str]) -> Job:
    """Runs on every third video, beginning with another one each time: so who is compared runs at nearly one time."""
    starts = cycle(range(3))
    return lambda: run(paths[next(starts) :: 3])


def throughputs(effort: Effort) -> Iterator[Row]:
    """Whole runs of predict on the test split over the others, in batches of equal size, with as many processes."""
    paths, equal = [record.path for record in dataset_of("test", *STREAMS).records], equal_threshold()
    ours, everyone = as_accurate(equal), "all exits"
    runs: dict[str, Callable[..., None]] = {
        EVERYTHING: partial(classify_videos, frames_of=OTHERS[EVERYTHING]),
        ours: partial(predict_videos, threshold=equal),
        SEEK: partial(classify_videos, frames_of=OTHERS[SEEK]),
        everyone: partial(predict_videos, threshold=1.0, lazy=False),
        **{name: partial(classify_videos, frames_of=OTHERS[name]) for name in TUNED},
    }
    in_place = {name: by_thirds(run, paths) for name, run in runs.items()}
    taken = in_turns(in_place, effort.rounds(21), clock=effort.clock, name="predict")
    yield from speeds("predict", (ours, everyone), taken, len(paths) / 3)
    with_worker = {name: partial(runs[name], paths, num_workers=1) for name in (EVERYTHING, ours, SEEK)}
    taken = in_turns(with_worker, effort.rounds(7), name="predict, a worker")
    yield from speeds("predict, a worker each", (ours,), taken, len(paths))


def speeds(verb: str, names: Sequence[str], taken: dict[str, list[float]], num_videos: float) -> Iterator[Row]:
    """Of each of ours, over each of the others that took part; the first of ours is what is aimed at."""
    for other in [other for other in TARGETS if other in taken]:
        for name in names:
            figure = f"{num_videos / statistics.median(taken[name]):.0f} videos/s"
            aimed = TARGETS[other] if name == names[0] else None
            yield row(PART, f"videos/s of {verb}: {name}", other, over(taken, name)[other], figure, at_least=aimed)


@torch.inference_mode()
def measure(effort: Effort) -> Iterator[Row]:
    """All rows of this part."""
    yield from latencies(effort)
    yield from throughputs(effort)
