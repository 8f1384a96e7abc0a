"""Follows the frames of one GOP as they are decoded, and keeps the streams that were asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from av.video.frame import VideoFrame

from datamodules.bitstream.decoder import to_grey, to_rgb
from datamodules.bitstream.flow import FlowMethod, compact
from datamodules.bitstream.frames import MOTION_STREAMS, VECTOR_STREAMS, Colorspace, Frames, Reference
from datamodules.bitstream.motion import SourcePlane, vector_records
from datamodules.bitstream.resize import resize, resize_vectors


@dataclass(frozen=True)
class Request:
    """What is read at every position; see `CompressedVideo.read` for the meaning of the fields."""

    streams: frozenset[str]
    reference: Reference
    colorspace: Colorspace
    resolution: tuple[int, int] | None
    flow: FlowMethod

    @property
    def has_vectors(self) -> bool:
        """Whether a stream is asked for that is made of vectors."""
        return bool(self.streams & VECTOR_STREAMS)

    @property
    def has_motion(self) -> bool:
        """Whether a stream is asked for that I-frames do not have."""
        return bool(self.streams & MOTION_STREAMS)


@dataclass(frozen=True)
class Moment:
    """One frame of a GOP and what its streams are made of.

    Args:
        picture: the frame.
        iframe: the GOP's first.
        reference: what vectors, the residual and flow refer to; at the I-frame, `picture` itself.
        sources: where the frame's pixels come from in `reference`; None at the I-frame, or if no stream needs it.
            It changes with the next frame.
    """

    picture: "_Picture"
    iframe: "_Picture"
    reference: "_Picture"
    sources: SourcePlane | None


class _Follower:
    """Follows a GOP's frames.

    Args:
        size: (height, width) of the frames, pixels.
        request: what is read.
    """

    def __init__(self, size: tuple[int, int], request: Request) -> None:
        self._size, self._request = size, request
        self._accumulates = request.reference == "iframe"
        self._iframe: _Picture | None = None
        self._previous: _Picture | None = None

    def follow(self, frame: VideoFrame, *, emit: bool) -> Moment:
        """Takes the next frame; its sources are right if `emit`."""
        picture, sources = _Picture(frame, self._request.colorspace), None
        if self._iframe is None:
            self._iframe = picture
        elif self._request.has_vectors and (emit or self._accumulates):
            sources = self._follow_vectors(frame)
        reference = self._iframe if self._accumulates else self._previous or picture
        self._previous = picture
        return Moment(picture, self._iframe, reference, sources)

    # Not before the I-frame has been found right, nor where no vectors are asked for.
    @cached_property
    def _sources(self) -> SourcePlane:
        return SourcePlane(*self._size)

    def _follow_vectors(self, frame: VideoFrame) -> SourcePlane:
        if not self._accumulates:
            self._sources.reset()
        self._sources.advance(vector_records(frame))
        return self._sources


class _Writer:
    """Makes the streams that are asked for out of moments.

    Args:
        size: (height, width) of the frames, pixels.
        request: which streams.
        positions: of the moments that come.
    """

    def __init__(self, size: tuple[int, int], request: Request, positions: Sequence[int]) -> None:
        num_motion = sum(position > 0 for position in positions)
        counts = {"iframe": 1, "rgb": len(positions), **dict.fromkeys(MOTION_STREAMS, num_motion)}
        self._flow = request.flow
        self._outputs = {name: _Output(name, counts[name], size, request.resolution) for name in request.streams}

    def write_iframe(self, moment: Moment) -> None:
        """Writes the GOP's I-frame."""
        if "iframe" in self._outputs:
            with self._outputs["iframe"] as pixels:
                moment.iframe.copy_rgb(pixels)

    def write(self, moment: Moment) -> None:
        """Writes the other streams of the next position."""
        if "mv" in self._outputs and moment.sources is not None:
            with self._outputs["mv"] as mv:
                moment.sources.motion_vectors(mv)
        if "residual" in self._outputs and moment.sources is not None:
            with self._outputs["residual"] as residual:
                moment.sources.residuals(moment.picture.rows, moment.reference.rows, residual)
        if "rgb" in self._outputs:
            with self._outputs["rgb"] as pixels:
                moment.picture.copy_rgb(pixels)
        if "flow" in self._outputs and moment.picture is not moment.reference:
            with self._outputs["flow"] as flow:
                flow[...] = compact(self._flow.between(moment.reference.grey, moment.picture.grey))

    def frames(self) -> Frames:
        """What was written, positions along a leading dimension."""
        arrays = {name: output.array for name, output in self._outputs.items()}
        if "iframe" in arrays:
            arrays["iframe"] = arrays["iframe"][0]
        return Frames(**arrays)


class Collector:
    """Collects the streams of one GOP as it is decoded.

    Args:
        size: (height, width) of the frames, pixels.
        request: what to collect.
        positions: where vectors, residuals and plain frames are collected, rising.
    """

    def __init__(self, size: tuple[int, int], request: Request, positions: Sequence[int]) -> None:
        self._follower, self._writer = _Follower(size, request), _Writer(size, request, positions)
        self._positions = frozenset(positions)

    def add(self, position: int, frame: VideoFrame) -> None:
        """Takes the GOP's next frame."""
        emit = position in self._positions
        moment = self._follower.follow(frame, emit=emit)
        if position == 0:
            self._writer.write_iframe(moment)
        if emit:
            self._writer.write(moment)

    def frames(self) -> Frames:
        """What was collected, positions along a leading dimension."""
        return self._writer.frames()


class Keeper:
    """Keeps what the streams of one GOP are made of, decoded but not converted; arguments as of `Collector`."""

    def __init__(self, size: tuple[int, int], request: Request, positions: Sequence[int]) -> None:
        self._follower = _Follower(size, request)
        self._size, self._request, self._positions = size, request, positions
        self._moments: list[Moment] = []

    def add(self, position: int, frame: VideoFrame) -> None:
        """Takes the GOP's next frame."""
        emit = position in self._positions
        moment = self._follower.follow(frame, emit=emit)
        if emit:
            sources = None if moment.sources is None else moment.sources.copy()
            self._moments.append(replace(moment, sources=sources))

    def frames(self, stream: str) -> Frames:
        """One of the streams of the request, made now; positions along a leading dimension."""
        writer = _Writer(self._size, replace(self._request, streams=frozenset({stream})), self._positions)
        writer.write_iframe(self._moments[0])
        for moment in self._moments:
            writer.write(moment)
        return writer.frames()


# Channels of each stream, and their type at full size.
_ELEMENTS: dict[str, tuple[int, type[np.generic]]] = {
    "iframe": (3, np.uint8),
    "mv": (2, np.int16),
    "residual": (3, np.int16),
    "rgb": (3, np.uint8),
    "flow": (2, np.float16),
}


class _Output:
    """One stream's array; each `with` block fills its next frame, at full size whatever the resolution kept.

    Args:
        stream: its name.
        count: frames.
        size: (height, width) of a full frame.
        resolution: (height, width) of what is kept; None: full size.
    """

    def __init__(self, stream: str, count: int, size: tuple[int, int], resolution: tuple[int, int] | None) -> None:
        channels, self._dtype = _ELEMENTS[stream]
        self._is_vectors, self._resolution, self._next = channels == 2, resolution, 0
        self._shape = (count, *size, channels)

    # Not before a frame has been decoded and found right: damaged headers claim any size.
    @cached_property
    def array(self) -> np.ndarray:
        """(count, H, W, C), what was kept."""
        if self._resolution is None:
            return np.empty(self._shape, self._dtype)
        count, *_, channels = self._shape
        return np.empty((count, *self._resolution, channels), np.float32 if self._is_vectors else self._dtype)

    @cached_property
    def _full(self) -> np.ndarray:
        return np.empty(self._shape[1:], self._dtype)

    def __enter__(self) -> np.ndarray:
        return self.array[self._next] if self._resolution is None else self._full

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._resolution is not None and kind is None:
            scale = resize_vectors if self._is_vectors else resize
            self.array[self._next] = scale(self._full[None], self._resolution)[0]
        self._next += 1


def rgb_pixels(frame: VideoFrame, colorspace: Colorspace) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8 RGB; its rows may be padded."""
    return _Picture(frame, colorspace).rgb


class _Picture:
    """A decoded frame, converted to RGB or grey when first asked for."""

    def __init__(self, frame: VideoFrame, colorspace: Colorspace) -> None:
        self._frame, self._colorspace = frame, colorspace

    @cached_property
    def rows(self) -> np.ndarray:
        """(H, S) uint8, rows of interleaved RGB; S >= 3 W, the rest is padding."""
        plane = to_rgb(self._frame, self._colorspace).planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)

    @cached_property
    def grey(self) -> np.ndarray:
        """(H, W) uint8, contiguous."""
        plane = to_grey(self._frame).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        return np.ascontiguousarray(rows[:, : plane.width])

    @property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8, a view of the rows."""
        return self.rows[:, : 3 * self._frame.width].reshape(self._frame.height, -1, 3)

    def copy_rgb(self, out: np.ndarray) -> None:
        """Copies the pixels into `out`, (H, W, 3) uint8."""
        height, width, _ = out.shape
        np.copyto(out.reshape(height, 3 * width), self.rows[:, : 3 * width])
