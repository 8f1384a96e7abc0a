"""Reads I-frames, motion vectors, residuals and plain frames of a compressed video, from one decode of each GOP.

    file --pread--> packets of a GOP prefix --one decoder--> frame 0 (I)   frame 1 (P)  ...  frame p (P)
                                                               |             |                |
                                                            iframe     vectors -> source plane of p
                                                               |                              |   \\
                                                               +--- warp ---> residual <------+    mv

Representations as in Wu et al., "Compressed Video Action Recognition", CVPR 2018, and its public loader, in RGB order.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, get_args

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame

from datamodules.bitstream.decoder import PacketDecoder, file_decoder, packet_decoder, to_rgb
from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.index import Gop, VideoIndex, build_index, video_packets
from datamodules.bitstream.motion import (
    advance_sources,
    identity_sources,
    motion_vectors,
    residuals,
    vector_records,
)

Stream = Literal["iframe", "mv", "residual", "rgb"]
Reference = Literal["iframe", "previous"]
Colorspace = Literal["bt601", "tagged"]

STREAMS: tuple[Stream, ...] = get_args(Stream)
_VECTOR_STREAMS = frozenset({"mv", "residual"})
_REENCODE = "re-encode it: streamkd reencode --source {path} --target clip.mp4"


@dataclass
class Frames:
    """The streams that were asked for, at one position or (with a leading dimension) over a GOP; None elsewhere.

    Attributes:
        iframe: (H, W, 3) uint8 RGB, the GOP's I-frame.
        mv: (H, W, 2) int16, whole pixels, dst - src, x before y; over a GOP (L-1, H, W, 2).
        residual: (H, W, 3) int16, RGB difference; over a GOP (L-1, H, W, 3).
        rgb: (H, W, 3) uint8, the decoded frame; over a GOP (L, H, W, 3).
    """

    iframe: np.ndarray | None = None
    mv: np.ndarray | None = None
    residual: np.ndarray | None = None
    rgb: np.ndarray | None = None

    def at(self, number: int) -> "Frames":
        """The streams of one of several positions; the I-frame is the same for all."""
        pick = {name: None if array is None else array[number] for name, array in vars(self).items()}
        return Frames(**{**pick, "iframe": self.iframe})

    def __repr__(self) -> str:
        arrays = ((field.name, getattr(self, field.name)) for field in fields(self))
        shown = (f"{name}={array.dtype}{list(array.shape)}" for name, array in arrays if array is not None)
        return f"Frames({', '.join(shown)})"


class CompressedVideo:
    """A compressed video, read GOP by GOP. Use it in a `with` block; it opens lazily, in the process that reads.

    Args:
        path: the file.
        index: what `build_index` returned for it, to save reading it again.

    Raises:
        UnreadableVideoError: the file cannot be opened, or holds no video that can be decoded.
    """

    def __init__(self, path: str | os.PathLike[str], index: VideoIndex | None = None) -> None:
        self.path = os.fspath(path)
        self.index = build_index(self.path) if index is None else index
        self._start()

    @property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs in decoding order: start, length, times, frame types."""
        return self.index.gops

    @property
    def num_frames(self) -> int:
        """Decodable frames."""
        return self.index.num_frames

    @property
    def width(self) -> int:
        """Pixels, as coded."""
        return self.index.width

    @property
    def height(self) -> int:
        """Pixels, as coded."""
        return self.index.height

    def read(
        self,
        *,
        gop: int,
        position: int = 0,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
    ) -> Frames:
        """Reads `streams` at one position of one GOP.

        Args:
            gop: number of the GOP.
            position: frame within the GOP; 0 is the I-frame, which has neither motion vectors nor a residual.
            streams: any of `"iframe"`, `"mv"`, `"residual"`, `"rgb"`.
            reference: what vectors and residuals refer to: the GOP's I-frame (accumulated) or the previous frame.
            colorspace: `"bt601"` converts as CoViAR does whatever the file's tags say; `"tagged"` honours them.

        Raises:
            UnreadableVideoError: the stream has B-frames, several references or a codec without vectors and vectors
                are asked for, or the file is damaged at this place.
            IndexError: no such GOP or position.
            ValueError: an unknown stream, reference or colorspace, or vectors asked for at position 0.
        """
        return self.read_positions(gop, [position], streams=streams, reference=reference, colorspace=colorspace)[0]

    def read_positions(
        self,
        gop: int,
        positions: Sequence[int],
        *,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
    ) -> list[Frames]:
        """Reads `streams` at several positions of one GOP, in any order, from one decode up to the last of them.

        Other arguments and errors as in `read`; no positions are a `ValueError`.
        """
        wanted = self._check(gop, streams, reference, colorspace)
        self._check_positions(gop, positions, wanted)
        order = sorted(set(positions))
        last = order[-1] if wanted - {"iframe"} else 0
        collector = _Collector(self.index, wanted, reference, colorspace, num_vectors=len(order), num_rgb=len(order))
        for number, frame in self._decode(gop, last + 1, wanted):
            collector.add(frame, emit=number in order)
        frames = collector.frames()
        return [frames.at(order.index(position)) for position in positions]

    def read_gop(
        self,
        gop: int,
        *,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
    ) -> Frames:
        """Reads `streams` over a whole GOP of L frames: `mv` and `residual` at positions 1 to L-1, `rgb` at 0 to L-1.

        Arguments and errors as in `read`.
        """
        wanted = self._check(gop, streams, reference, colorspace)
        count = self.gops[gop].length if wanted - {"iframe"} else 1
        collector = _Collector(self.index, wanted, reference, colorspace, num_vectors=count - 1, num_rgb=count)
        for _, frame in self._decode(gop, count, wanted):
            collector.add(frame, emit=True)
        return collector.frames()

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        self._open.close()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return (
            f"CompressedVideo({self.path!r}, {self.index.codec} {self.width}x{self.height}, "
            f"{self.num_frames} frames in {len(self.gops)} GOPs)"
        )

    def _start(self) -> None:
        """Nothing is open in this process."""
        self._packets: _FilePackets | _DemuxedPackets | None = None
        self._own_decoder: PacketDecoder | None = None
        self._open = ExitStack()
        self._owner = os.getpid()

    def _check(self, gop: int, streams: Collection[Stream], reference: str, colorspace: str) -> frozenset[str]:
        _check_choices(reference=(reference, Reference), colorspace=(colorspace, Colorspace))
        wanted = frozenset(streams)
        if not wanted or not wanted <= set(STREAMS):
            raise ValueError(f"streams {sorted(wanted)}: expected some of {', '.join(STREAMS)}")
        if not 0 <= gop < len(self.gops):
            raise IndexError(f"GOP {gop}: {self.path} has GOPs 0 to {len(self.gops) - 1}")
        if wanted & _VECTOR_STREAMS and self.index.vector_refusal:
            self._refuse(self.index.vector_refusal)
        if "rgb" in wanted and set(self.gops[gop].frame_types) - {"I", "P"}:
            self._refuse(f"frame types {self.gops[gop].frame_types} where plain frames need I and P")
        return wanted

    def _check_positions(self, gop: int, positions: Sequence[int], wanted: frozenset[str]) -> None:
        length = self.gops[gop].length
        for position in positions:
            if not 0 <= position < length:
                raise IndexError(f"position {position}: GOP {gop} has positions 0 to {length - 1}")
            if position == 0 and wanted & _VECTOR_STREAMS:
                raise ValueError("position 0 is the I-frame: motion vectors and residuals begin at position 1")
        if not positions:
            raise ValueError("expected at least one position, came none")

    def _refuse(self, reason: str) -> None:
        raise UnreadableVideoError(self.path, reason, _REENCODE.format(path=self.path))

    def _decode(self, gop: int, count: int, wanted: frozenset[str]) -> Iterator[tuple[int, VideoFrame]]:
        """The first `count` frames of a GOP, each checked to be whole and of the expected type and size."""
        first, behind = self.index.packets_of(gop, count)
        number = 0
        try:
            decoder = self._decoder(wanted == {"mv"})
            packets = self._source().read(first, behind)
            for number, frame in enumerate(decoder.decode(packets), start=1):
                self._check_frame(frame, gop, number - 1)
                yield number - 1, frame
        except (FFmpegError, OSError) as error:
            self._damaged(gop, number, str(error))
        if number != count:
            self._damaged(gop, number, f"{number} of {count} frames could be decoded")

    def _check_frame(self, frame: VideoFrame, gop: int, position: int) -> None:
        if frame.is_corrupt:
            self._damaged(gop, position, "the decoder found it corrupt")
        if (frame.width, frame.height) != (self.width, self.height):
            came, expected = f"{frame.width}x{frame.height}", f"{self.width}x{self.height}"
            self._damaged(gop, position, f"its size is {came} where the header says {expected}")
        if self.index.exports_vectors and PictureType(frame.pict_type).name != self._frame_type(gop, position):
            self._damaged(gop, position, "its frame type differs from its header's")

    def _frame_type(self, gop: int, position: int) -> str:
        return self.gops[gop].frame_types[position : position + 1]

    def _damaged(self, gop: int, position: int, reason: str) -> None:
        raise UnreadableVideoError(
            self.path,
            f"damaged at GOP {gop}, position {position}: {reason}",
            "fetch it again, or leave it out of the list",
        ) from None

    def _source(self) -> "_FilePackets | _DemuxedPackets":
        self._forget_if_forked()
        if self._packets is None:
            kind = _FilePackets if self.index.is_sliceable else _DemuxedPackets
            self._packets = self._open.enter_context(closing(kind(self.path, self.index)))
        return self._packets

    def _decoder(self, vectors_only: bool) -> PacketDecoder:
        if self.index.exports_vectors:
            return packet_decoder(self.index.codec, self.index.extradata, vectors_only)
        self._forget_if_forked()
        if self._own_decoder is None:
            self._own_decoder = self._open.enter_context(file_decoder(self.path))
        return self._own_decoder

    def _forget_if_forked(self) -> None:
        """A child process opens everything anew: what it inherited is the parent's to use and to close."""
        if self._owner != os.getpid():
            self._start()


def _check_choices(**choices: tuple[object, object]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in get_args(allowed):
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(get_args(allowed))}")


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


class _Collector:
    """Follows the frames of one GOP and keeps what was asked for."""

    def __init__(
        self,
        index: VideoIndex,
        wanted: frozenset[str],
        reference: Reference,
        colorspace: Colorspace,
        *,
        num_vectors: int,
        num_rgb: int,
    ) -> None:
        self._wanted, self._accumulates, self._colorspace = wanted, reference == "iframe", colorspace
        self._num_vectors = self._num_rgb = 0
        self._iframe: _Picture | None = None
        self._previous: _Picture | None = None
        size = (index.height, index.width)
        self._sources = identity_sources(*size)
        self._carried = np.empty(size, np.int32)
        shapes = {
            "mv": (num_vectors, *size, 2),
            "residual": (num_vectors, *size, 3),
            "rgb": (num_rgb, *size, 3),
        }
        types = {"mv": np.int16, "residual": np.int16, "rgb": np.uint8}
        self._arrays = {name: np.empty(shapes[name], types[name]) for name in wanted - {"iframe"}}

    def add(self, frame: VideoFrame, *, emit: bool) -> None:
        """Takes the GOP's next frame; keeps its streams if `emit`."""
        picture = _Picture(frame, self._colorspace)
        if self._iframe is None:
            self._iframe = picture
        elif self._wanted & _VECTOR_STREAMS and (emit or self._accumulates):
            self._follow_vectors(frame)
            if emit:
                self._emit_vectors(picture)
        if emit and "rgb" in self._wanted:
            picture.copy_rgb(self._arrays["rgb"][self._num_rgb])
            self._num_rgb += 1
        self._previous = picture

    def frames(self) -> Frames:
        """What was kept, positions along a leading dimension."""
        arrays = dict(self._arrays)
        if "iframe" in self._wanted and self._iframe is not None:
            arrays["iframe"] = np.empty((*self._sources.shape, 3), np.uint8)
            self._iframe.copy_rgb(arrays["iframe"])
        return Frames(**arrays)

    def _follow_vectors(self, frame: VideoFrame) -> None:
        side_data = frame.side_data.get("MOTION_VECTORS")
        records = vector_records(None if side_data is None else memoryview(side_data))
        advance_sources(records, self._sources, self._carried)
        if self._accumulates:
            self._sources, self._carried = self._carried, self._sources

    def _emit_vectors(self, picture: _Picture) -> None:
        sources, reference = (self._sources, self._iframe) if self._accumulates else (self._carried, self._previous)
        if "mv" in self._wanted:
            motion_vectors(sources, self._arrays["mv"][self._num_vectors])
        if "residual" in self._wanted and reference is not None:
            residuals(picture.rows, reference.rows, sources, self._arrays["residual"][self._num_vectors])
        self._num_vectors += 1


class _FilePackets:
    """Packets as slices of the file."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._offsets, self._sizes = index.offsets, index.sizes
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)

    def read(self, first: int, behind: int) -> Iterator[memoryview]:
        starts, ends = self._offsets[first:behind], (self._offsets + self._sizes)[first:behind]
        start, end = int(starts.min()), int(ends.max())
        data = memoryview(os.pread(self._file.fileno(), end - start, start))
        return (data[a - start : b - start] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))

    def close(self) -> None:
        self._file.close()


class _DemuxedPackets:
    """Packets of a container that wraps them (MPEG-TS and the like), kept in memory after one pass."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        with av.open(path, metadata_errors="ignore") as container:
            self._data = [bytes(packet) for packet in video_packets(container)]

    def read(self, first: int, behind: int) -> Iterator[bytes]:
        return iter(self._data[first:behind])

    def close(self) -> None:
        self._data = []
