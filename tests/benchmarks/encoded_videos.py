"""Videos to measure, encoded as for training: given ones, or a synthetic scene."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from datamodules.bitstream import encode_frames, reencode
from datamodules.bitstream.encode import Codec

NUM_GOPS, GOP_SIZE, WIDTH, HEIGHT = 10, 12, 340, 256


def encoded(videos: list[Path], codec: Codec, folder: Path) -> list[str]:
    """The videos, or the synthetic scene where there are none, in one recipe."""
    targets = [folder / f"{number}.{codec}.mp4" for number in range(max(1, len(videos)))]
    for video, target in zip(videos, targets, strict=False):
        reencode(video, target, codec=codec, gop_size=GOP_SIZE)
    if not videos:
        encode_frames(synthetic_frames(), targets[0], codec=codec, gop_size=GOP_SIZE)
    return [str(target) for target in targets]


def copies(videos: Sequence[Path], count: int, folder: Path) -> list[str]:
    """As many videos as `count`, under names of their own."""
    targets = [folder / f"{number:04d}{video.suffix}" for number, video in enumerate(islice(cycle(videos), count))]
    for video, target in zip(cycle(videos), targets, strict=False):
        shutil.copy(video, target)
    return [str(target) for target in targets]


def described(videos: list[Path]) -> str:
    """What `encoded` makes of them, in words."""
    content = f"{len(videos)} videos, GOPs" if videos else f"{WIDTH}x{HEIGHT}, {NUM_GOPS} GOPs"
    return f"{content} of {GOP_SIZE}"


def synthetic_frames() -> Iterator[np.ndarray]:
    """A textured scene under a slowly panning camera, with an object that crosses it and sensor noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (80, 160, 3)).astype(np.float32)
    scene = np.kron(coarse, np.ones((8, 8, 1), np.float32)) * 0.5 + rng.normal(64, 12, (640, 1280, 3))
    for t in range(NUM_GOPS * GOP_SIZE):
        frame = scene[t : t + HEIGHT, 2 * t : 2 * t + WIDTH].copy()
        frame[80:180, 2 * t : 2 * t + 60] = scene[:100, :60][:, : max(0, WIDTH - 2 * t)]
        yield np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)
