"""Follows the frames of one GOP as they are decoded, and keeps the streams that were asked for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from av.video.frame import VideoFrame

from datamodules.bitstream.decoder import to_rgb
from datamodules.bitstream.frames import VECTOR_STREAMS, Colorspace, Frames, Reference
from datamodules.bitstream.motion import SourcePlane, vector_records
from datamodules.bitstream.resize import resize, resize_vectors


@dataclass(frozen=True)
class Request:
    """What is read at every position; see `CompressedVideo.read` for the meaning of the fields."""

    streams: frozenset[str]
    reference: Reference
    colorspace: Colorspace
    resolution: tuple[int, int] | None

    @property
    def has_vectors(self) -> bool:
        """Whether a stream is asked for that I-frames do not have."""
        return bool(self.streams & VECTOR_STREAMS)


class Collector:
    """Collects the streams of one GOP.

    Args:
        size: (height, width) of the frames, pixels.
        request: what to keep.
        num_vectors: positions at which vectors and residuals are kept.
        num_rgb: positions at which plain frames are kept.
    """

    def __init__(self, size: tuple[int, int], request: Request, *, num_vectors: int, num_rgb: int) -> None:
        self._wanted, self._has_vectors, self._colorspace = request.streams, request.has_vectors, request.colorspace
        self._size, self._accumulates = size, request.reference == "iframe"
        self._iframe: _Picture | None = None
        self._previous: _Picture | None = None
        counts = {"iframe": 1, "mv": num_vectors, "residual": num_vectors, "rgb": num_rgb}
        self._outputs = {name: _Output(name, counts[name], size, request.resolution) for name in self._wanted}

    def add(self, frame: VideoFrame, *, emit: bool) -> None:
        """Takes the GOP's next frame; keeps its streams if `emit`."""
        picture = _Picture(frame, self._colorspace)
        if self._iframe is None:
            self._iframe = picture
            if "iframe" in self._wanted:
                self._keep_pixels("iframe", picture)
        elif self._has_vectors and (emit or self._accumulates):
            self._follow_vectors(frame)
            if emit:
                self._keep_vectors(picture)
        if emit and "rgb" in self._wanted:
            self._keep_pixels("rgb", picture)
        self._previous = picture

    def frames(self) -> Frames:
        """What was kept, positions along a leading dimension."""
        arrays = {name: output.array for name, output in self._outputs.items()}
        if "iframe" in arrays:
            arrays["iframe"] = arrays["iframe"][0]
        return Frames(**arrays)

    # Not before the I-frame has been found right, nor where no vectors are asked for.
    @cached_property
    def _sources(self) -> SourcePlane:
        return SourcePlane(*self._size)

    def _follow_vectors(self, frame: VideoFrame) -> None:
        if not self._accumulates:
            self._sources.reset()
        self._sources.advance(vector_records(frame))

    def _keep_vectors(self, picture: "_Picture") -> None:
        reference = self._iframe if self._accumulates else self._previous
        if "mv" in self._wanted:
            with self._outputs["mv"] as mv:
                self._sources.motion_vectors(mv)
        if "residual" in self._wanted and reference is not None:
            with self._outputs["residual"] as residual:
                self._sources.residuals(picture.rows, reference.rows, residual)

    def _keep_pixels(self, stream: str, picture: "_Picture") -> None:
        with self._outputs[stream] as pixels:
            picture.copy_rgb(pixels)


class _Output:
    """One stream's array; each `with` block fills its next frame, at full size whatever the resolution kept.

    Args:
        stream: its name.
        count: frames.
        size: (height, width) of a full frame.
        resolution: (height, width) of what is kept; None: full size.
    """

    def __init__(self, stream: str, count: int, size: tuple[int, int], resolution: tuple[int, int] | None) -> None:
        self._is_vectors, self._resolution, self._next = stream == "mv", resolution, 0
        self._shape = (count, *size, 2 if stream == "mv" else 3)
        self._dtype = np.int16 if stream in VECTOR_STREAMS else np.uint8

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


class _Picture:
    """A decoded frame, converted to RGB when first asked for."""

    def __init__(self, frame: VideoFrame, colorspace: Colorspace) -> None:
        self._frame, self._colorspace = frame, colorspace

    @cached_property
    def rows(self) -> np.ndarray:
        """(H, S) uint8, rows of interleaved RGB; S >= 3 W, the rest is padding."""
        plane = to_rgb(self._frame, self._colorspace).planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)

    def copy_rgb(self, out: np.ndarray) -> None:
        """Copies the pixels into `out`, (H, W, 3) uint8."""
        height, width, _ = out.shape
        np.copyto(out.reshape(height, 3 * width), self.rows[:, : 3 * width])
