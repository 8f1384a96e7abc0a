"""How cost grows: with segments, exits, stages, videos and the length of GOPs, each with a fitted exponent.

Sizes take turns within a round. A row is the time at the largest size over that at the smallest; beside it stands the
exponent p of time ~ size^p, fitted to the logarithms of the medians: 0 for what does not grow, 1 for what grows in
proportion. Run by `make bench`.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from bench_distillation import CHANNELS, Distillation, Networks, clips_of
from bench_rows import Effort, Row, row
from encoded_videos import synthetic_frames
from interleaved import Job, in_turns, over

from callbacks.progressive_stages import ProgressiveStages, first_epochs
from datamodules.annotations import ClassFolders
from datamodules.bitstream import CompressedVideo, encode_frames
from datamodules.clip_reader import ClipReader
from datamodules.epoch_sampler import EpochSampler
from datamodules.index_cache import IndexCache
from datamodules.sampling import FrameSampler
from datamodules.transforms import RandomCrops
from datamodules.video_source import VideoSource
from lightning_modules.ensemble import fit_exit_scales
from lightning_modules.networks import EarlyExitNetwork, resnet10
from lightning_modules.networks.internal_classifier import InternalClassifier

PART = "scaling"
STREAMS = ("iframe", "mv", "residual")
SPLITS = (1000, 4000, 16000)
Jobs = Mapping[int, Job]


def grown(what: str, unit: str, jobs: Jobs, rounds: int, effort: Effort) -> Row:
    """The row of one thing that grows."""
    taken = in_turns(jobs, effort.rounds(rounds), clock=effort.clock, name=what)
    sizes = list(jobs)
    seconds = [statistics.median(taken[size]) for size in sizes]
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    figure = f"exponent {exponent:.2f}; {1e3 * seconds[0]:.3g} to {1e3 * seconds[-1]:.3g} ms"
    return row(PART, f"{what}, {sizes[-1]} {unit}", f"{sizes[0]}", over(taken, sizes[0])[sizes[-1]], figure)


def segments(path: str) -> Jobs:
    """Reading a sample of more segments."""

    def reader(number: int) -> ClipReader:
        source = VideoSource(STREAMS, IndexCache())
        return ClipReader(source, dict.fromkeys(STREAMS, 224), FrameSampler(number), RandomCrops())

    return {number: partial(reader(number).read, path) for number in (1, 2, 4, 8)}


def gop_lengths(folder: Path, streams: tuple[str, ...]) -> Jobs:
    """Reading one place in the middle of a GOP, of videos with longer GOPs."""
    jobs = {}
    for length in (6, 12, 24, 48):
        path = folder / f"gop{length}.mp4"
        if not path.exists():
            encode_frames(synthetic_frames(), path, codec="mpeg4", gop_size=length)
        video = CompressedVideo(str(path))
        jobs[length] = partial(video.read, gop=1, position=length // 2, streams=streams)
    return jobs


def exits() -> Jobs:
    """A distillation step with more internal classifiers on the same three networks."""
    batch = clips_of(8, 112)
    depths = ("layer1", "layer2", "layer3")
    return {
        3 * number: partial(Distillation(exit_networks(depths[-number:])).step, batch, "iframe") for number in (1, 2, 3)
    }


def exit_networks(depths: tuple[str, ...]) -> Networks:
    """The demo's networks with internal classifiers at some depths."""
    layout = dict.fromkeys(depths, InternalClassifier)
    return {s: EarlyExitNetwork(resnet10(12, channels, width=16), layout) for s, channels in CHANNELS.items()}


def scales() -> Jobs:
    """Fitting the scales of all exits on 360 videos."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(12, (360,), generator=generator)
    noise = torch.randn(24, 360, 12, generator=generator)
    logits = noise + 2 * torch.nn.functional.one_hot(labels, 12)
    return {number: partial(fit_exit_scales, logits[:number], labels, l1=0.1, l1_from=6) for number in (3, 6, 12, 24)}


def stages() -> Jobs:
    """A distillation step of the nine classifiers in a schedule of more stages, told before each who teaches."""
    batch = clips_of(8, 112)
    distillation = Distillation(exit_networks(("layer1", "layer2", "layer3")))

    def step(schedule: ProgressiveStages, epochs: Iterator[int]) -> None:
        stage = schedule.stage_at(next(epochs) % 96)
        distillation.step(batch, schedule.teachers[stage])

    jobs: dict[int, Job] = {}
    for number in (3, 12, 48):
        schedule = ProgressiveStages((["mv", "residual", "iframe"] * number)[:number], [96 // number] * number)
        schedule.first_epochs = first_epochs(schedule.lengths, 96)
        jobs[number] = partial(step, schedule, count())
    return jobs


def listings(folder: Path) -> Jobs:
    """Listing a split of more videos, 100 a class."""
    return {number: partial(ClassFolders(str(listed(folder, number))).records, "train") for number in SPLITS}


def listed(folder: Path, number: int) -> Path:
    """A split of so many empty files."""
    root = folder / f"split{number}"
    for name in range(number // 100):
        (root / "train" / f"class{name:04d}").mkdir(parents=True)
        for video in range(100):
            (root / "train" / f"class{name:04d}" / f"{video:03d}.mp4").touch()
    return root


def orders() -> Jobs:
    """Drawing an epoch's order."""

    def draw(sampler: EpochSampler, epochs: Iterator[int]) -> None:
        sampler.set_epoch(next(epochs))
        list(sampler)

    return {number: partial(draw, EpochSampler(number, seed=0, shuffle=True), count()) for number in SPLITS}


def known_indices(path: str, folder: Path) -> Jobs:
    """Asking for kept indices among those of more videos; for 100 of them, since one takes microseconds."""

    def ask(cache: IndexCache, names: list[str]) -> None:
        for name in names[:100]:
            cache.get(name)

    jobs: dict[int, Job] = {}
    for number in (100, 400, 1600):
        names, cache = [str(folder / f"{number}-{name}.mp4") for name in range(number)], IndexCache()
        for name in names:
            os.link(path, name)
            cache.get(name)
        jobs[number] = partial(ask, cache, names)
    return jobs


def measure(effort: Effort) -> Iterator[Row]:
    """All rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = str(folder / "scene.mp4")
        encode_frames(synthetic_frames(), path, codec="mpeg4", gop_size=12)
        short = str(folder / "short.mp4")
        encode_frames(islice(synthetic_frames(), 12), short, codec="mpeg4", gop_size=12)
        plan: list[tuple[str, str, Callable[[], Jobs], int]] = [
            ("reading a sample", "segments", partial(segments, path), 12),
            ("reading I + MV + R", "frames a GOP", partial(gop_lengths, folder, STREAMS), 12),
            ("reading I alone", "frames a GOP", partial(gop_lengths, folder, ("iframe",)), 12),
            ("a PKD step", "internal classifiers", exits, 8),
            ("a PKD step", "stages", stages, 8),
            ("fitting WISE's scales", "exits", scales, 4),
            ("listing a split", "videos", partial(listings, folder), 6),
            ("drawing an epoch's order", "videos", orders, 12),
            ("100 known indices", "videos", partial(known_indices, short, folder), 24),
        ]
        for what, unit, jobs, rounds in plan:
            yield grown(what, unit, jobs(), rounds, effort)
