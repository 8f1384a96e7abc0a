"""Time of the reader as a ratio over bare decoding of the same packets, interleaved, one thread, one process.

The baseline is libavcodec alone: PyAV, a persistent context, packets sliced and padded beforehand, no vectors, no
colour conversion. decord and plain PyAV stand beside it, doing what they can of the same job. Each figure is the
median over rounds of the ratio within a round, with its quartiles, so that a machine whose speed drifts does not
matter. `ours` keeps a video open, as the baseline does; `ours + open` parses the file anew each time, as decord and
plain PyAV must. Run by `make bench-reader`.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.bitstream import CompressedVideo, build_index, encode_frames
from datamodules.bitstream.index import VideoIndex

NUM_GOPS, GOP_SIZE, WIDTH, HEIGHT = 10, 12, 340, 256
SEGMENTS = ((0, 6), (4, 6), (9, 6))  # three (GOP, position): the centre of each
OTHERS = ("ours + open", "decord RGB", "PyAV RGB")
Job = Callable[[], object]


def synthetic_frames() -> Iterator[np.ndarray]:
    """A textured scene under a slowly panning camera, with an object that crosses it and sensor noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (80, 160, 3)).astype(np.float32)
    scene = np.kron(coarse, np.ones((8, 8, 1), np.float32)) * 0.5 + rng.normal(64, 12, (640, 1280, 3))
    for t in range(NUM_GOPS * GOP_SIZE):
        frame = scene[t : t + HEIGHT, 2 * t : 2 * t + WIDTH].copy()
        frame[80:180, 2 * t : 2 * t + 60] = scene[:100, :60][:, : max(0, WIDTH - 2 * t)]
        yield np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)


class BareDecoder:
    """libavcodec and nothing else: packets are sliced and padded before the clock starts."""

    def __init__(self, index: VideoIndex) -> None:
        self._context = av.CodecContext.create(index.codec, "r")
        self._context.thread_count = 1
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

    def segments(self) -> None:
        for gop, position in SEGMENTS:
            self.prefix(gop, position + 1)

    def whole(self) -> None:
        self.decode(0, len(self._packets))


def seek_and_decode_rgb(path: str, runs: list[list[float]]) -> None:
    """Plain PyAV: open; for each run of times seek to the keyframe before it, decode, convert its frames to RGB."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for run in runs:
            container.seek(int(run[0] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= run[0] - 1e-6:
                    frame.to_ndarray(format="rgb24")
                if frame.time >= run[-1] - 1e-6:
                    break


def keyframes_only(path: str) -> None:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONKEY"
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24")


def decord_frames(path: str, numbers: list[int]) -> Job | None:
    """decord's batch of RGB frames; None where it is not installed."""
    try:
        import decord
    except ImportError:
        return None
    return lambda: decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()


def jobs(path: str) -> dict[str, dict[str, Job | None]]:
    """Per job: ours, its baseline (`bare`), and what others do for it. decord and PyAV give RGB frames only."""
    index = build_index(path)
    video, bare = CompressedVideo(path, index), BareDecoder(index)
    numbers = [gop * GOP_SIZE + position for gop, position in SEGMENTS]
    whole_gop = list(range(4 * GOP_SIZE, 5 * GOP_SIZE))
    times = index.times.tolist()

    def segments(video: CompressedVideo, streams: tuple[str, ...]) -> None:
        for gop, position in SEGMENTS:
            video.read(gop=gop, position=position, streams=streams)

    def gop(video: CompressedVideo) -> None:
        video.read_gop(4, streams=("iframe", "mv", "residual", "rgb"))

    def iframes(video: CompressedVideo) -> None:
        for number in range(NUM_GOPS):
            video.read(gop=number, streams=("iframe",))

    def ours(job: Callable[..., None], *arguments: object) -> dict[str, Job | None]:
        def opening() -> None:
            with CompressedVideo(path) as opened:
                job(opened, *arguments)

        return {"ours": lambda: job(video, *arguments), "ours + open": opening}

    return {
        "3 segments x (I + MV + R)": {
            **ours(segments, ("iframe", "mv", "residual")),
            "bare": bare.segments,
            "decord RGB": decord_frames(path, numbers),
            "PyAV RGB": lambda: seek_and_decode_rgb(path, [[times[number]] for number in numbers]),
        },
        "one GOP, all streams and frames": {
            **ours(gop),
            "bare": lambda: bare.prefix(4, GOP_SIZE),
            "decord RGB": decord_frames(path, whole_gop),
            "PyAV RGB": lambda: seek_and_decode_rgb(path, [[times[number] for number in whole_gop]]),
        },
        "3 x MV": {**ours(segments, ("mv",)), "bare": bare.segments},
        "all I-frames, over a whole decode": {
            **ours(iframes),
            "bare": bare.whole,
            "decord RGB": decord_frames(path, list(range(0, NUM_GOPS * GOP_SIZE, GOP_SIZE))),
            "PyAV RGB": lambda: keyframes_only(path),
        },
    }


def seconds(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def measure(contenders: dict[str, Job | None], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in every round, contenders taking turns within a round."""
    running = {name: job for name, job in contenders.items() if job is not None}
    for job in running.values():
        job()
    taken: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds):
        order = list(running) if number % 2 else list(running)[::-1]
        for name in order:
            taken[name].append(seconds(running[name]))
    return taken


def row(job: str, taken: dict[str, list[float]]) -> list[str]:
    ratios = {name: [a / b for a, b in zip(taken[name], taken["bare"], strict=True)] for name in taken}
    low, middle, high = statistics.quantiles(ratios["ours"], n=4)
    others = [f"{statistics.median(ratios[name]):.2f}" if name in ratios else "-" for name in OTHERS]
    bare = f"{1000 * statistics.median(taken['bare']):.2f}"
    return [job, f"{middle:.2f}", f"{low:.2f}-{high:.2f}", *others, bare]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    console = Console(width=120)
    decord_version = next((f", decord {d.__version__}" for d in [_decord()] if d), "")
    console.print(f"{_processor()}; {platform.platform()}; PyAV {av.__version__}{decord_version}; {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("mpeg4", "h264"):
            path = str(Path(folder, f"{codec}.mp4"))
            encode_frames(synthetic_frames(), path, codec=codec, gop_size=GOP_SIZE)
            title = f"{codec}, {WIDTH}x{HEIGHT}, {NUM_GOPS} GOPs of {GOP_SIZE}: ratio over bare decoding"
            table = Table("job", "ours", "quartiles", *OTHERS, "bare, ms", title=title)
            for job, contenders in track(jobs(path).items(), description=codec, console=console, transient=True):
                table.add_row(*row(job, measure(contenders, rounds)))
            console.print(table)


def _decord():
    try:
        import decord
    except ImportError:
        return None
    return decord


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
