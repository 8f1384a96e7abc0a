"""Time of IP TSN's P-stream against optical flow, and of two networks against three; in one process, interleaved.

Three kinds of table, for the claims of arXiv 1912.04462: 60 times as fast as with flow, 20 % faster than other networks
on compressed video. All on one thread. Each ratio is the median over rounds (and videos) of the ratio within a round,
with its quartiles.

Input: what a worker makes of a video, from the file to 224x224 uint8, decode included; its index is kept. The
P-stream's are vectors and residuals, accumulated from the I-frame. Flow is computed at the same places of the same
decode: one frame a segment, or a stack of 5 consecutive ones as in TSN. It comes from the frame before, as is usual,
which favours flow: from the I-frame, over more motion, TV-L1 takes up to ten times as long.

From file to label: that, normalisation, and a ResNet-18.

I+P over I+MV+R: all streams from one decode; a ResNet for I-frames and ResNet-18s for the others. Below 1, I+P takes
less.

Run by `make bench-streams`, on a synthetic scene, or with `VIDEOS="a.mp4 b.avi"` on videos of your own. Either is
encoded first, as for training. TV-L1 takes part in few rounds, since it takes seconds; two networks race three in half
of the others.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from encoded_videos import described, encoded
from interleaved import Clock, Job, in_turns, over, quartiles
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from datamodules.bitstream.flow import FlowMethod, import_opencv
from datamodules.clip import parts_of
from datamodules.clip_reader import ClipReader
from datamodules.flow_cache import FlowSettings, Place
from datamodules.index_cache import IndexCache
from datamodules.sampling import FrameSampler
from datamodules.transforms import RandomCrops, normalise, num_channels
from datamodules.video_source import VideoSource
from lightning_modules.analysis.cost import cost_of
from lightning_modules.analysis.throughput import processor
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.networks import resnet18, resnet50, resnet152
from lightning_modules.networks.channels_last import store_channels_last

SIDE, SEGMENTS, STACK, NUM_CLASSES = 224, 3, 5, 101
P_STREAM = "mv+residual"
METHODS = (
    FlowSettings("dis", "ultrafast"),
    FlowSettings("dis", "fast"),
    FlowSettings("dis", "medium"),
    FlowSettings("tvl1"),
)
TWO, THREE = ("iframe", P_STREAM), ("iframe", "mv", "residual")
I_NETWORKS = {"ResNet-50": resnet50, "ResNet-152 (CoViAR's)": resnet152}
TIMED = ("networks alone", "file to label")
INDICES = IndexCache()


class Contender(NamedTuple):
    """The P-stream, or flow by some method."""

    method: FlowMethod | None = None
    frames: int = 1  # of flow a segment

    @property
    def is_slow(self) -> bool:
        return self.method is not None and self.method.method == "tvl1"

    @property
    def cells(self) -> list[str]:
        """As a row begins: what it is, its flow frames a segment, its channels."""
        if self.method is None:
            return ["vectors + residuals", "-", str(num_channels(P_STREAM))]
        return [f"flow, {self.method.name}", str(self.frames), str(num_channels("flow") * self.frames)]


P = Contender()
SINGLE = (P, *map(Contender, METHODS))
STACKS = tuple(Contender(method, STACK) for method in METHODS)


class Effort(NamedTuple):
    """How many rounds there are in all, whatever the number of videos, and the clock."""

    rounds: int
    slow_rounds: int
    clock: Clock


def reader_of(*streams: str, **options: Any) -> ClipReader:
    """As the data module makes it, by its defaults."""
    source = VideoSource(parts_of(*streams), INDICES)
    return ClipReader(source, dict.fromkeys(streams, SIDE), FrameSampler(SEGMENTS), RandomCrops(), **options)


def read_stacks(reader: ClipReader, path: str) -> Tensor:
    """Flow of consecutive frames as channels: (1, T, 2 * STACK, S, S) uint8."""
    plan = reader.plan(path)
    plan = replace(plan, clips=[consecutive(place, plan.video.gops) for clip in plan.clips for place in clip])
    with plan.video:
        return reader.cut("flow", reader.collect(plan), plan).flatten(1, 2)[None]


def consecutive(place: Place, gops: Any) -> list[Place]:
    """STACK places that end at one, or as soon as so many of its GOP have flow; a shorter GOP repeats its first."""
    gop, position = place
    last = min(max(position, STACK), gops[gop].length - 1)
    return [(gop, max(last - back, 1)) for back in reversed(range(STACK))]


def reader_for(contender: Contender) -> ClipReader:
    if contender.method is None:
        return reader_of(P_STREAM)
    return reader_of("flow", flow=contender.method, reference="previous")


def inputs(path: str) -> dict[Contender, Job]:
    single = {contender: partial(reader_for(contender).read, path) for contender in SINGLE}
    stacks = {contender: partial(read_stacks, reader_for(contender), path) for contender in STACKS}
    return {**single, **stacks}


class Recogniser:
    """Networks of random weights, one a stream, whose logits are added.

    Args:
        reader: of their streams.
        networks: by stream.
    """

    def __init__(self, reader: ClipReader, networks: dict[str, nn.Module]) -> None:
        self.reader, self.networks = reader, networks
        for network in networks.values():
            store_channels_last(network.eval())

    @torch.no_grad()
    def classify(self, clips: dict[str, Tensor]) -> int:
        """(1, T, C, S, S) float32 by stream -> label."""
        logits = [network(clips[stream]) for stream, network in self.networks.items()]
        return int(torch.stack(logits).sum(dim=0).argmax())

    def label(self, path: str) -> int:
        streams = self.reader.read(path).streams
        return self.classify({stream: normalise(stream, frames) for stream, frames in streams.items()})

    def random_clips(self) -> dict[str, Tensor]:
        """What `classify` takes."""
        return {stream: torch.randn(1, *shape) for stream, shape in self.reader.shapes.items()}

    def multiply_adds(self) -> int:
        """Of a frame of each stream."""
        return sum(cost_of(network, self.random_clips()[s][:, :1]).total for s, network in self.networks.items())


def recogniser(reader: ClipReader, i_network: Callable[..., nn.Module] = resnet50) -> Recogniser:
    """ResNet-18 for each stream but I-frames."""
    makers = {stream: i_network if stream == "iframe" else resnet18 for stream in reader.sizes}
    return Recogniser(reader, {s: maker(NUM_CLASSES, num_channels(s)) for s, maker in makers.items()})


def against_flow(
    jobs_of: Callable[[str], dict[Contender, Job]], paths: list[str], effort: Effort, title: str, console: Console
) -> Table:
    """A row a contender, all over the P-stream. TV-L1 has rounds of its own, with the P-stream."""
    taken: dict[Contender, list[float]] = {}
    ratios: dict[Contender, list[float]] = {}
    for path in track(paths, description=title, console=console, transient=True):
        jobs = jobs_of(path)
        quick = {contender: job for contender, job in jobs.items() if not contender.is_slow}
        slow = {contender: job for contender, job in jobs.items() if contender.is_slow or contender == P}
        found = in_turns(quick, share(effort.rounds, paths), clock=effort.clock)
        late = in_turns(slow, share(effort.slow_rounds, paths), clock=effort.clock, warm_up=False)
        collect(taken, late | found)
        collect(ratios, over(late, P) | over(found, P))
    columns = ("input", "flow frames a segment", "channels", "ms a video", "over the P-stream's", "quartiles")
    result = Table(*columns, title=title)
    for contender in sorted(ratios, key=lambda found: found.frames):
        result.add_row(*contender.cells, milliseconds(taken[contender]), *quartiles(ratios[contender]))
    return result


def share(rounds: int, paths: list[str]) -> int:
    """Rounds of each video, of so many in all."""
    return max(-(-rounds // len(paths)), 1)


def collect(into: dict[Any, list[float]], found: dict[Any, list[float]]) -> None:
    for name, figures in found.items():
        into.setdefault(name, []).extend(figures)


def milliseconds(taken: list[float]) -> str:
    return f"{1000 * statistics.median(taken):.1f}"


def labels() -> Callable[[str], dict[Contender, Job]]:
    """For a path, what leads from it to a label."""
    recognisers = {contender: recogniser(reader_for(contender)) for contender in SINGLE}
    return lambda path: {contender: partial(found.label, path) for contender, found in recognisers.items()}


def two_against_three(paths: list[str], effort: Effort, title: str, console: Console) -> Table:
    """Three rows an I-frame network: time of the networks alone, from file to label, and multiply-adds."""
    result = Table("I-stream", "what", "I+P", "I+MV+R", "ratio", "quartiles", title=title)
    for name, i_network in I_NETWORKS.items():
        two, three = (recogniser(reader_of(*streams), i_network) for streams in (TWO, THREE))
        taken = race(two, three, paths, effort, name, console)
        for what in TIMED:
            pair = {found: taken[what, found] for found in (two, three)}
            result.add_row(name, f"{what}, ms", *map(milliseconds, pair.values()), *quartiles(over(pair, three)[two]))
        adds = [found.multiply_adds() / 1e9 for found in (two, three)]
        cells = [f"{value:.2f}" for value in (*adds, adds[0] / adds[1])]
        result.add_row(name, "multiply-adds a segment, G", *cells, "-", end_section=True)
    return result


def race(
    two: Recogniser, three: Recogniser, paths: list[str], effort: Effort, name: str, console: Console
) -> dict[tuple[str, Recogniser], list[float]]:
    """Seconds by what is timed, of `TIMED`, and whose it is."""
    clips = {found: found.random_clips() for found in (two, three)}
    taken: dict[tuple[str, Recogniser], list[float]] = {}
    for path in track(paths, description=name, console=console, transient=True):
        jobs: dict[tuple[str, Recogniser], Job] = {}
        for found in (two, three):
            jobs[TIMED[0], found] = partial(found.classify, clips[found])
            jobs[TIMED[1], found] = partial(found.label, path)
        collect(taken, in_turns(jobs, share(effort.rounds // 2, paths), clock=effort.clock))
    return taken


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure; the synthetic scene if none")
    parser.add_argument("--rounds", type=int, default=20, help="in all, shared by the videos; at least one of each")
    parser.add_argument("--slow-rounds", type=int, default=3, help="those of TV-L1")
    parser.add_argument("--cpu-time", action="store_true", help="not wall-clock time: for a machine that is busy")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    effort = Effort(arguments.rounds, arguments.slow_rounds, clock)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=120)
    versions = f"PyAV {av.__version__}, OpenCV {import_opencv().__version__}, PyTorch {torch.__version__}"
    rounds = f"{effort.rounds} rounds, {effort.slow_rounds} of TV-L1, {clock.__name__}"
    console.print(f"{processor()}, 1 thread; {platform.platform()}; {rounds}\n{versions}")
    with tempfile.TemporaryDirectory() as folder:
        videos = {codec: encoded(arguments.videos, codec, Path(folder)) for codec in ("mpeg4", "h264")}
        for codec, paths in videos.items():
            title = f"Input of {SEGMENTS} segments, {codec}, {described(arguments.videos)}"
            console.print(against_flow(inputs, paths, effort, title, console))
        title = f"From file to label by a ResNet-18, {SEGMENTS} segments, mpeg4"
        console.print(against_flow(labels(), videos["mpeg4"], effort, title, console))
        title = f"I+P over I+MV+R, {SEGMENTS} segments, mpeg4"
        console.print(two_against_three(videos["mpeg4"], effort, title, console))


if __name__ == "__main__":
    main()
