"""Time of the reader as a ratio over bare decoding of the same packets, interleaved, one thread, one process.

The baseline is libavcodec alone: PyAV, a persistent context, packets sliced and padded beforehand, no vectors, no
colour conversion. `least` is libavcodec alone where it does what the job cannot do without: exports vectors, decodes
the I-frames. decord and plain PyAV stand beside it, doing what they can of the same job. Each figure is the median over
rounds (and videos) of the ratio within a round, with its quartiles, so that a machine whose speed drifts does not
matter. `ours` keeps a video open, as the baseline does; `ours + open` parses the file anew each time, as decord and
plain PyAV must. Run by `make bench-reader`, on a synthetic scene, or with `VIDEOS="a.mp4 b.avi"` on videos of your own.
Either is encoded in both recipes first, as for training.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
from encoded_videos import described, encoded
from interleaved import Clock, Job, in_turns, over, quartiles
from plain_pyav import keyframes_rgb, seek_and_decode_rgb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.bitstream import CompressedVideo, build_index
from datamodules.bitstream.index import VideoIndex
from lightning_modules.analysis.hardware import processor
from lightning_modules.freed_memory import keep_freed_memory

OTHERS = ("least", "ours + open", "decord RGB", "PyAV RGB")


class BareDecoder:
    """libavcodec and nothing else: packets are sliced and padded before the clock starts."""

    def __init__(self, index: VideoIndex, options: dict[str, str] | None = None) -> None:
        self._context = av.CodecContext.create(index.codec, "r")
        self._context.thread_count = 1
        self._context.options = options or {}
        if index.extradata:
            self._context.extradata = index.extradata
        data = Path(index.path).read_bytes()
        self._packets = [
            self._padded(data[start : start + size])
            for start, size in zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
        ]
        self._coded_range = index.coded_range

    @staticmethod
    def _padded(data: bytes) -> av.Packet:
        packet = av.Packet(len(data))
        packet.update(data)
        return packet

    def decode(self, first: int, behind: int) -> None:
        for packet in self._packets[first:behind]:
            self._context.decode(packet)
        self._context.decode(None)
        self._context.flush_buffers()

    def prefix(self, gop: int, count: int) -> None:
        self.decode(*self._coded_range(gop, count))

    def positions(self, places: list[tuple[int, int]]) -> None:
        for gop, position in places:
            self.prefix(gop, position + 1)

    def whole(self) -> None:
        self.decode(0, len(self._packets))


def decord_frames(path: str, numbers: list[int]) -> Job | None:
    """decord's batch of RGB frames; None where it is not installed."""
    try:
        import decord
    except ImportError:
        return None
    return lambda: decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()


def segment_centres(index: VideoIndex) -> list[tuple[int, int]]:
    """(GOP, position) at the centre of the first, the middle and the last GOP that has P-frames."""
    moving = [number for number, gop in enumerate(index.gops) if gop.length > 1]
    return [(gop, index.gops[gop].length // 2) for gop in (moving[0], moving[(len(moving) - 1) // 2], moving[-1])]


def jobs(path: str) -> dict[str, dict[str, Job | None]]:
    """Per job: ours, its baseline (`bare`), and what others do for it. decord and PyAV give RGB frames only."""
    index = build_index(path)
    video, bare = CompressedVideo(path, index), BareDecoder(index)
    exporting = BareDecoder(index, {"flags2": "+export_mvs"})
    vectors_only = BareDecoder(index, {"flags2": "+export_mvs", "skip_idct": "all", "skip_loop_filter": "all"})
    centres = segment_centres(index)
    whole = centres[1][0]
    length = index.gops[whole].length
    numbers = [index.gops[gop].start + position for gop, position in centres]
    whole_gop = [index.gops[whole].start + position for position in range(length)]
    iframe_places = [(gop, 0) for gop in range(len(index.gops))]
    times = index.times.tolist()

    def segments(video: CompressedVideo, streams: tuple[str, ...]) -> None:
        for gop, position in centres:
            video.read(gop=gop, position=position, streams=streams)

    def gop(video: CompressedVideo) -> None:
        video.read_gop(whole, streams=("iframe", "mv", "residual", "rgb"))

    def iframes(video: CompressedVideo) -> None:
        for number in range(len(index.gops)):
            video.read(gop=number, streams=("iframe",))

    def ours(job: Callable[..., None], *arguments: object) -> dict[str, Job | None]:
        def opening() -> None:
            with CompressedVideo(path) as opened:
                job(opened, *arguments)

        return {"ours": lambda: job(video, *arguments), "ours + open": opening}

    return {
        "3 segments x (I + MV + R)": {
            **ours(segments, ("iframe", "mv", "residual")),
            "bare": lambda: bare.positions(centres),
            "least": lambda: exporting.positions(centres),
            "decord RGB": decord_frames(path, numbers),
            "PyAV RGB": lambda: seek_and_decode_rgb(path, [[times[number]] for number in numbers]),
        },
        "one GOP, all streams and frames": {
            **ours(gop),
            "bare": lambda: bare.prefix(whole, length),
            "least": lambda: exporting.prefix(whole, length),
            "decord RGB": decord_frames(path, whole_gop),
            "PyAV RGB": lambda: seek_and_decode_rgb(path, [[times[number] for number in whole_gop]]),
        },
        "3 x MV": {
            **ours(segments, ("mv",)),
            "bare": lambda: bare.positions(centres),
            "least": lambda: vectors_only.positions(centres),
        },
        "all I-frames, over a whole decode": {
            **ours(iframes),
            "bare": bare.whole,
            "least": lambda: bare.positions(iframe_places),
            "decord RGB": decord_frames(path, [gop.start for gop in index.gops]),
            "PyAV RGB": lambda: keyframes_rgb(path),
        },
    }


def row(job: str, rounds: dict[str, list[float]]) -> list[str]:
    ratios = over(rounds, "bare")
    others = [f"{statistics.median(ratios[name]):.2f}" if name in ratios else "-" for name in OTHERS]
    bare = f"{1000 * statistics.median(rounds['bare']):.2f}"
    return [job, *quartiles(ratios["ours"]), *others, bare]


def table(title: str, paths: list[str], rounds: int, clock: Clock, console: Console) -> Table:
    """One row a job, over all rounds of all videos."""
    taken: dict[str, dict[str, list[float]]] = {}
    for path in track(paths, description=title, console=console, transient=True):
        for job, contenders in jobs(path).items():
            running = {name: run for name, run in contenders.items() if run is not None}
            for name, figures in in_turns(running, rounds, clock=clock).items():
                taken.setdefault(job, {}).setdefault(name, []).extend(figures)
    result = Table("job", "ours", "quartiles", *OTHERS, "bare, ms", title=f"{title}: ratio over bare decoding")
    for job, figures in taken.items():
        result.add_row(*row(job, figures))
    return result


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure; the synthetic scene if none")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cpu-time", action="store_true", help="not wall-clock time: for a machine that is busy")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    console = Console(width=120)
    decord_version = next((f", decord {d.__version__}" for d in [_decord()] if d), "")
    versions = f"{platform.platform()}; PyAV {av.__version__}{decord_version}"
    console.print(f"{processor()}; {versions}; {arguments.rounds} rounds, {clock.__name__}")
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("mpeg4", "h264"):
            paths = encoded(arguments.videos, codec, Path(folder))
            console.print(table(f"{codec}, {described(arguments.videos)}", paths, arguments.rounds, clock, console))


def _decord():
    try:
        import decord
    except ImportError:
        return None
    return decord


if __name__ == "__main__":
    main()
