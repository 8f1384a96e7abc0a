"""Walks through a video frame by frame, with motion and residual at every frame, in bounded memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.bitstream import CompressedVideo, Frames, Gop
from datamodules.bitstream.frames import Reference

_RUN_BYTES = 1 << 28
_BYTES_PER_PIXEL = 3 + 4 + 6  # plain frame, vectors, residual


@dataclass(frozen=True)
class SeenFrame:
    """One frame of a walk.

    Attributes:
        gop: number of its GOP.
        position: its place there; 0 is the I-frame, whose motion and residual are zero.
        rgb: (H, W, 3) uint8, turned upright where the video has a rotation flag, and so are the others.
        mv: (H, W, 2) int16, whole pixels, x before y.
        residual: (H, W, 3) int16.
    """

    gop: int
    position: int
    rgb: np.ndarray
    mv: np.ndarray
    residual: np.ndarray


def walk(video: CompressedVideo, gops: Iterable[int], reference: Reference = "iframe") -> Iterator[SeenFrame]:
    """The frames of `gops`, read in runs that fit into memory; a long GOP of large frames is decoded repeatedly.

    Args:
        video: one whose vectors can be read.
        gops: numbers of GOPs.
        reference: what vectors and residuals refer to.

    Raises:
        UnreadableVideoError: vectors cannot be read, or the file is damaged; frames before that place have come.
    """
    run = max(1, _RUN_BYTES // (_BYTES_PER_PIXEL * video.width * video.height))
    for gop in gops:
        yield read_iframe(video, gop)
        length = video.gops[gop].length
        for start in range(1, length, run):
            yield from read_pframes(video, gop, range(start, min(start + run, length)), reference)


def read_iframe(video: CompressedVideo, gop: int) -> SeenFrame:
    """The I-frame of a GOP, at rest."""
    iframe = video.read(gop=gop, streams=["iframe"]).turned(video.index.rotation).iframe
    assert iframe is not None
    return SeenFrame(gop, 0, iframe, np.zeros((*iframe.shape[:2], 2), np.int16), np.zeros(iframe.shape, np.int16))


def read_pframes(
    video: CompressedVideo, gop: int, positions: Iterable[int], reference: Reference = "iframe"
) -> list[SeenFrame]:
    """Several P-frames of one GOP, from one decode; arguments and errors as in `CompressedVideo.read_positions`."""
    positions = list(positions)
    read = video.read_positions(gop, positions, streams=("rgb", "mv", "residual"), reference=reference)
    return [_seen(gop, *at) for at in zip(positions, (at.turned(video.index.rotation) for at in read), strict=True)]


def _seen(gop: int, position: int, frames: Frames) -> SeenFrame:
    rgb, mv, residual = frames.rgb, frames.mv, frames.residual
    assert rgb is not None
    assert mv is not None
    assert residual is not None
    return SeenFrame(gop, position, rgb, mv, residual)


def spread_positions(gop: Gop, count: int) -> list[int]:
    """Positions of `count` P-frames, from a GOP's first to its last; all where it has fewer, the last if one."""
    last = gop.length - 1
    return np.unique(np.linspace(last, min(1, last), min(count, last)).round().astype(int)).tolist()
