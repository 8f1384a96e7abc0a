"""RGB frames of a file by PyAV alone, as one would write it without an index: one thread, opened anew.

`as_documented` converts a frame as PyAV's documentation does, which sets up a converter with threads of its own for it:
longer work than decoding a small frame. `by_kept_converter` sets one up for all, on one thread.
"""

from collections.abc import Callable, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

Convert = Callable[[av.VideoFrame], np.ndarray]
_converter = VideoReformatter()


def as_documented(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8."""
    return frame.to_ndarray(format="rgb24")


def by_kept_converter(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8."""
    return _converter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def seek_and_decode_rgb(
    path: str, runs: Sequence[Sequence[float]], convert: Convert = as_documented
) -> list[np.ndarray]:
    """For each run of times seeks to the keyframe before it, decodes, and converts its frames: (H, W, 3) uint8 each."""
    found = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for run in runs:
            container.seek(int(run[0] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= run[0] - 1e-6:
                    found.append(convert(frame))
                if frame.time >= run[-1] - 1e-6:
                    break
    return found


def seek_frames_rgb(path: str, parts: int, convert: Convert = as_documented) -> list[np.ndarray]:
    """The frames in the middle of so many equal parts, by the container's own number of frames and their rate."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        times = [(2 * part + 1) * stream.frames // (2 * parts) / stream.average_rate for part in range(parts)]
    return seek_and_decode_rgb(path, [[float(time)] for time in times], convert)


def decode_all_rgb(path: str, convert: Convert = as_documented) -> list[np.ndarray]:
    """Every frame, converted."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [convert(frame) for frame in container.decode(stream)]


def keyframes_rgb(path: str, convert: Convert = as_documented) -> list[np.ndarray]:
    """Every keyframe, converted; other packets are not decoded."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.skip_frame = "NONKEY"
        return [convert(frame) for frame in container.decode(stream)]
