"""Which frames of a video stand for it: temporal segments or a dense clip, and the P-frame that carries the motion.

Segments as in TSN (Wang et al., ECCV 2016) and CoViAR (Wu et al., CVPR 2018, `dataset.py` of its public code). Where
we differ: one draw of frames serves all streams, GOPs may have any length, and more than one clip per video may be
drawn for a test.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

SamplingMode = Literal["segments", "dense"]


class GopSpan(Protocol):
    """What is needed of a GOP: its first frame and its length, in frames."""

    @property
    def start(self) -> int: ...

    @property
    def length(self) -> int: ...


def random_segments(
    num_frames: int, num_segments: int, rng: np.random.Generator, *, motion: bool = False
) -> np.ndarray:
    """One random frame from each of `num_segments` equal segments (training).

    Args:
        num_frames: of the video.
        num_segments: T.
        rng: where randomness comes from; T numbers are drawn.
        motion: whether frame 0, which has no motion, is left out.

    Returns:
        frames: (T,) int64.
    """
    edges = _segment_edges(num_frames - motion, num_segments, np.arange(num_segments + 1))
    frames = rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)) + motion
    return np.minimum(frames, num_frames - 1)


def centre_segments(num_frames: int, num_segments: int, *, num_clips: int = 1, motion: bool = False) -> np.ndarray:
    """The centre frame of each segment (evaluation); clips divide each segment evenly between them.

    Args:
        num_frames: of the video.
        num_segments: T.
        num_clips: K; one clip takes the centres.
        motion: whether frame 0, which has no motion, is left out.

    Returns:
        frames: (K, T) int64.
    """
    within = (np.arange(num_clips)[:, None] + 0.5) / num_clips
    places = np.arange(num_segments)[None, :] + within
    frames = _segment_edges(num_frames - motion, num_segments, places) + motion
    return np.minimum(frames, num_frames - 1)


def dense_clip(
    num_frames: int,
    length: int,
    stride: int,
    *,
    rng: np.random.Generator | None = None,
    num_clips: int = 1,
    motion: bool = False,
) -> np.ndarray:
    """Runs of frames `stride` apart; a video that is too short repeats from its start.

    Args:
        num_frames: of the video.
        length: T, frames in a clip.
        stride: frames from one to the next.
        rng: draws the start of the one clip (training); None: evenly placed clips, one at the centre.
        num_clips: K, without `rng`.
        motion: whether frame 0, which has no motion, is left out.

    Returns:
        frames: (K, T) int64.
    """
    usable = max(num_frames - motion, 1)
    room = max(usable - ((length - 1) * stride + 1), 0)
    if rng is None:
        starts = np.floor(room * (np.arange(num_clips) + 0.5) / num_clips).astype(np.int64)
    else:
        starts = rng.integers(room + 1, size=1)
    frames = (starts[:, None] + np.arange(length)[None, :] * stride) % usable + motion
    return np.minimum(frames, num_frames - 1)


@dataclass(frozen=True)
class FrameSampler:
    """Draws the frames of one video.

    Args:
        num_frames: T, frames in a clip (segments, in mode "segments").
        mode: "segments" spreads them over the video, "dense" takes them `stride` apart.
        stride: frames from one to the next in mode "dense".
        num_clips: K, clips taken from one video when nothing is drawn at random.
        window: frames in the middle of a video that alone are drawn from, so that its length tells nothing; a shorter
            video gives all it has. None: all of every video.
    """

    num_frames: int
    mode: SamplingMode = "segments"
    stride: int = 8
    num_clips: int = 1
    window: int | None = None

    def draw(self, video_frames: int, *, motion: bool, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of a video with `video_frames` of them: (K, T) int64; K = 1 if drawn by `rng`."""
        used = video_frames if self.window is None else min(self.window, video_frames)
        return (video_frames - used) // 2 + self._draw(used, motion=motion, rng=rng)

    def _draw(self, num_frames: int, *, motion: bool, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of the window, counted from its start."""
        if self.mode == "dense":
            return dense_clip(
                num_frames, self.num_frames, self.stride, rng=rng, num_clips=self.num_clips, motion=motion
            )
        if rng is None:
            return centre_segments(num_frames, self.num_frames, num_clips=self.num_clips, motion=motion)
        return random_segments(num_frames, self.num_frames, rng, motion=motion)[None]


def frame_to_gop(frame: int, gops: Sequence[GopSpan]) -> tuple[int, int]:
    """The GOP that a frame belongs to, and its position in it.

    Raises:
        IndexError: a frame before the first GOP or after the last.
    """
    gop = bisect_right(gops, frame, key=lambda span: span.start) - 1
    if gop < 0 or frame >= gops[gop].start + gops[gop].length:
        raise IndexError(f"expected a frame within the video's {len(gops)} GOPs, got {frame}")
    return gop, frame - gops[gop].start


def motion_frame(frame: int, gops: Sequence[GopSpan]) -> tuple[int, int]:
    """The P-frame that stands for a frame: itself, else the nearest before it, else the nearest after it.

    With GOPs of 12 this is CoViAR's rule: a multiple of 12 becomes position 11 of the GOP before.

    Returns:
        (gop, position) with position >= 1.

    Raises:
        ValueError: no GOP has a P-frame.
    """
    gop, position = frame_to_gop(frame, gops)
    if position > 0:
        return gop, position
    for before in range(gop - 1, -1, -1):
        if gops[before].length > 1:
            return before, gops[before].length - 1
    for after in range(gop, len(gops)):
        if gops[after].length > 1:
            return after, 1
    raise ValueError("expected at least one P-frame, got a video of I-frames only")


def _segment_edges(num_frames: int, num_segments: int, places: np.ndarray) -> np.ndarray:
    size = max(num_frames - 1, 0) / num_segments
    return np.round(size * places).astype(np.int64)
