"""Throughput of `streamkd prepare` over that of a bare PyAV loop that decodes, scales and encodes; interleaved.

Both re-encode the same videos to 340x256 by CoViAR's recipe, one thread a process and one process per CPU, started anew
in every round. The loop indexes, counts and renames nothing, and waits for no disk. Figures are the median over rounds
with its quartiles; at least 0.90 is wanted. Run by `make bench-prepare`, on a synthetic scene, or with
`VIDEOS="a.mp4 b.avi"` on videos of your own, of which each is copied until there are `--count`.
"""

import argparse
import io
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from encoded_videos import copies
from interleaved import quartiles, ratios
from rich.console import Console

from datamodules.index_cache import IndexCache
from datamodules.parallel import num_cpus
from datamodules.prepare import prepare_videos
from datamodules.video_source import ReencodeCache, VideoSource

SIZE = (340, 256)
RECIPE = {"g": "12", "bf": "0", "refs": "1", "qmin": "1", "qmax": "1", "i_qfactor": "1", "sc_threshold": "1000000000"}
NUM_FRAMES, WIDTH, HEIGHT = 250, 480, 360


def synthetic_video(path: Path) -> None:
    """H.264 with B-frames, ten seconds: a textured scene under a slowly panning camera, with sensor noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (120, 160, 3)).astype(np.float32)
    scene = np.kron(coarse, np.ones((8, 8, 1), np.float32)) * 0.5 + rng.normal(64, 12, (960, 1280, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2", "crf": "23", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(NUM_FRAMES):
            frame = scene[t : t + HEIGHT, 2 * t : 2 * t + WIDTH] + rng.normal(0, 2, (HEIGHT, WIDTH, 3))
            pixels = np.clip(frame, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def bare(folder: str, source: str) -> None:
    """PyAV and nothing else."""
    path = f"{folder}/{Path(source).stem}.mp4"
    with av.open(source, metadata_errors="ignore") as container, av.open(path, "w") as out:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        stream = out.add_stream("mpeg4", rate=25, options=RECIPE)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        scaler = VideoReformatter()  # kept and on one thread, which `frame.reformat` is not
        for number, frame in enumerate(container.decode(video)):
            picture = scaler.reformat(frame, *SIZE, "yuv420p", interpolation="BICUBIC", threads=1)
            picture.pts, picture.time_base, picture.pict_type = number, Fraction(1, 25), 0
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def bare_on_all_cores(paths: list[str], folder: str) -> None:
    with ProcessPoolExecutor(num_cpus(), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(bare, folder), paths))


def ours(paths: list[str], folder: str) -> None:
    source = VideoSource(("mv",), IndexCache(f"{folder}/index"), ReencodeCache(f"{folder}/videos", SIZE))
    with redirect_stdout(io.StringIO()):
        done = prepare_videos(source, paths)
    assert done.made == len(paths), done


def in_a_new_folder(job: Callable[[list[str], str], None], paths: list[str]) -> None:
    with TemporaryDirectory() as folder:
        job(paths, folder)


def scene_in(folder: Path) -> list[Path]:
    """The synthetic video alone."""
    synthetic_video(folder / "scene.mp4")
    return [folder / "scene.mp4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to re-encode; the synthetic scene if none")
    parser.add_argument("--count", type=int, default=64 * num_cpus())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    console = Console(width=110)
    versions = f"{num_cpus()} CPUs; {platform.platform()}; PyAV {av.__version__}"
    console.print(f"{platform.processor() or platform.machine()}, {versions}; {arguments.rounds} rounds")
    with TemporaryDirectory() as folder:
        videos = arguments.videos or scene_in(Path(folder))
        paths = copies(videos, arguments.count, Path(folder))
        jobs = (partial(in_a_new_folder, job, paths) for job in (bare_on_all_cores, ours))
        middle, spread = quartiles(ratios(*jobs, arguments.rounds, f"{len(paths)} videos"))
    console.print(f"{len(paths)} videos: throughput over that of a bare loop {middle}, quartiles {spread}")


if __name__ == "__main__":
    main()
