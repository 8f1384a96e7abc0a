"""Reads I-frames, motion vectors, residuals and plain frames of a compressed video, from one decode of each GOP.

    file --pread--> packets of a GOP prefix --one decoder--> frame 0 (I)   frame 1 (P)  ...  frame p (P)
                                                               |             |                |
                                                            iframe     vectors -> source plane of p
                                                               |                              |   \\
                                                               +--- warp ---> residual <------+    mv

Optical flow, where it is asked for, is computed between the same decoded frames: p - 1 and p, or 0 and p.

Representations as in Wu et al., "Compressed Video Action Recognition", CVPR 2018, and its public loader, in RGB order.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame

from datamodules.bitstream.collector import Collector, Keeper, Request, rgb_pixels
from datamodules.bitstream.decoder import PacketDecoder, file_decoder, forget_decoders, packet_decoder
from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.flow import FlowMethod
from datamodules.bitstream.frames import STREAMS, Colorspace, Frames, Reference, Stream
from datamodules.bitstream.index import Gop, VideoIndex, build_index
from datamodules.bitstream.picture_source import DemuxedPictures, FilePictures, open_pictures

OnCorrupt = Literal["raise", "skip"]
_ON_CORRUPT, _REFERENCES, _COLORSPACES = get_args(OnCorrupt), get_args(Reference), get_args(Colorspace)
_Sink = TypeVar("_Sink", Collector, Keeper)
_FLOW = FlowMethod()
_REENCODE = "re-encode it: streamkd reencode --source {path} --target clip.mp4"


class CompressedVideo:
    """A compressed video, read GOP by GOP. Use it in a `with` block; it opens lazily, in the process that reads.

    Args:
        path: the file.
        index: what `build_index` returned for it, to save reading it again.
        on_corrupt: what to do about a damaged frame: `"raise"` an error, or `"skip"` it and all behind it in its GOP,
            the last intact frame before it standing in for them (counted by `num_corrupt`).

    Raises:
        UnreadableVideoError: the file cannot be opened, or holds no video that can be decoded.
        ValueError: another `on_corrupt`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        index: VideoIndex | None = None,
        *,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        _check_choices(on_corrupt=(on_corrupt, _ON_CORRUPT))
        self.path = os.fspath(path)
        self.index = build_index(self.path) if index is None else index
        self.on_corrupt = on_corrupt
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
    def num_corrupt(self) -> int:
        """Positions read so far for which an earlier frame stood in, with `on_corrupt="skip"`."""
        return self._num_corrupt

    @property
    def width(self) -> int:
        """Pixels, as coded."""
        return self.index.width

    @property
    def height(self) -> int:
        """Pixels, as coded."""
        return self.index.height

    @property
    def rotation(self) -> int:
        """Degrees by which what is read is to be turned counterclockwise to stand upright."""
        return self.index.rotation

    def read(
        self,
        *,
        gop: int,
        position: int = 0,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
        resolution: tuple[int, int] | None = None,
        flow: FlowMethod = _FLOW,
    ) -> Frames:
        """Reads `streams` at one position of one GOP.

        Args:
            gop: number of the GOP.
            position: frame within the GOP, in the order shown; 0 is the I-frame, which has neither motion vectors
                nor a residual.
            streams: any of `"iframe"`, `"mv"`, `"residual"`, `"rgb"`, `"flow"`.
            reference: what vectors, residuals and flow refer to: the GOP's I-frame (accumulated) or the previous frame.
            colorspace: `"bt601"` converts as CoViAR does whatever the file's tags say; `"tagged"` honours them.
            resolution: (height, width) in pixels to resize to (bilinear, antialiased), after everything was computed
                at full size; vectors scale with it and become float32. None: as coded.
            flow: how optical flow is computed.

        Raises:
            UnreadableVideoError: the stream has B-frames, several references or a codec without vectors, and vectors
                are asked for, or flow, which is read where there are vectors; or its container does not tell the order
                of its B-frames and plain frames are asked for; or the file is damaged at this place.
            IndexError: no such GOP or position.
            ValueError: an unknown stream, reference or colorspace, a resolution below 1, or vectors or flow asked for
                at position 0.
            ModuleNotFoundError: flow is asked for, and OpenCV is not there.
        """
        options = {"reference": reference, "colorspace": colorspace, "resolution": resolution, "flow": flow}
        return self.read_positions(gop, [position], streams=streams, **options)[0]  # type: ignore[arg-type]

    def read_positions(
        self,
        gop: int,
        positions: Sequence[int],
        *,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
        resolution: tuple[int, int] | None = None,
        flow: FlowMethod = _FLOW,
    ) -> list[Frames]:
        """Reads `streams` at several positions of one GOP, in any order, from one decode up to the last of them.

        Other arguments and errors as in `read`; no positions are a `ValueError`.
        """
        self._check_gop(gop)
        request = self._request(streams, reference, colorspace, resolution, flow)
        self._check_positions(gop, positions, request)
        if request.streams == {"iframe"}:
            positions = [0] * len(positions)
        order = sorted(set(positions))
        frames = self._collect(gop, order, request)
        return [frames.at(order.index(position)) for position in positions]

    def keep_positions(
        self,
        gop: int,
        positions: Sequence[int],
        *,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
        flow: FlowMethod = _FLOW,
    ) -> "KeptFrames":
        """Decodes what `streams` at several positions are made of, as `read_positions`, and makes none of them yet."""
        self._check_gop(gop)
        request = self._request(streams, reference, colorspace, None, flow)
        self._check_positions(gop, positions, request)
        keeper, num_corrupt = self._decode_into(Keeper, gop, sorted(set(positions)), request)
        return KeptFrames(keeper, num_corrupt, positions, request.streams)

    def read_gop(
        self,
        gop: int,
        *,
        streams: Collection[Stream] = ("iframe", "mv", "residual"),
        reference: Reference = "iframe",
        colorspace: Colorspace = "bt601",
        resolution: tuple[int, int] | None = None,
        flow: FlowMethod = _FLOW,
    ) -> Frames:
        """Reads `streams` over a whole GOP of L frames: `rgb` at positions 0 to L-1, those of P-frames at 1 to L-1.

        Arguments and errors as in `read`.
        """
        self._check_gop(gop)
        request = self._request(streams, reference, colorspace, resolution, flow)
        count = 1 if request.streams == {"iframe"} else self.gops[gop].length
        return self._collect(gop, range(count), request)

    def read_iframes(self, gops: Sequence[int], *, colorspace: Colorspace = "bt601") -> list[np.ndarray]:
        """Reads the I-frames of several GOPs, sooner than one by one: (H, W, 3) uint8 each, whose rows may be padded.

        Other arguments and errors as in `read`.
        """
        self._request(["iframe"], "iframe", colorspace, None, _FLOW)
        return [rgb_pixels(self._decode_iframe(gop), colorspace) for gop in gops]

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
        return {"path": self.path, "index": self.index, "on_corrupt": self.on_corrupt}

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
        self._pictures: FilePictures | DemuxedPictures | None = None
        self._own_decoder: PacketDecoder | None = None
        self._damage: dict[int, _DamagedFrameError] = {}
        self._num_corrupt = 0
        self._open = ExitStack()
        self._owner = os.getpid()

    def _request(
        self,
        streams: Collection[Stream],
        reference: Reference,
        colorspace: Colorspace,
        resolution: tuple[int, int] | None,
        flow: FlowMethod,
    ) -> Request:
        """What was asked for, checked."""
        _check_choices(reference=(reference, _REFERENCES), colorspace=(colorspace, _COLORSPACES))
        request = Request(frozenset(streams), reference, colorspace, resolution, flow)
        if not request.streams or not request.streams <= set(STREAMS):
            raise ValueError(f"streams {sorted(request.streams)}: expected some of {', '.join(STREAMS)}")
        if resolution is not None and min(resolution) < 1:
            raise ValueError(f"resolution: expected (height, width) of at least 1 pixel, got {resolution}")
        refusal = self.index.refusal(request.streams)
        if refusal:
            raise UnreadableVideoError(self.path, refusal, _REENCODE.format(path=self.path))
        return request

    def _check_gop(self, gop: int) -> None:
        if not 0 <= gop < len(self.gops):
            raise IndexError(f"GOP {gop}: {self.path} has GOPs 0 to {len(self.gops) - 1}")

    def _check_positions(self, gop: int, positions: Sequence[int], request: Request) -> None:
        length = self.gops[gop].length
        for position in positions:
            if not 0 <= position < length:
                raise IndexError(f"position {position}: GOP {gop} has positions 0 to {length - 1}")
            if position == 0 and request.has_motion:
                raise ValueError("position 0 is the I-frame: motion vectors, residuals and flow begin at position 1")
        if not positions:
            raise ValueError("expected at least one position, came none")

    def _collect(self, gop: int, positions: Sequence[int], request: Request) -> Frames:
        collector, num_corrupt = self._decode_into(Collector, gop, positions, request)
        return collector.frames().repeat_last(num_corrupt)

    def _decode_into(
        self, kind: type[_Sink], gop: int, positions: Sequence[int], request: Request
    ) -> tuple[_Sink, int]:
        """What takes the frames at rising positions; and how many at the end are damaged and were skipped."""
        damage = self._damage.get(gop)
        intact = damage.position if damage else self.gops[gop].length
        if damage and intact <= request.has_motion:
            raise self._unreadable(gop, damage)
        standing = [min(position, intact - 1) for position in positions]
        try:
            sink = self._decode_intact(kind, gop, sorted(set(standing)), request)
        except _DamagedFrameError as damage:
            forget_decoders()
            if self.on_corrupt == "raise":
                raise self._unreadable(gop, damage) from None
            self._damage[gop] = damage
            return self._decode_into(kind, gop, positions, request)
        num_corrupt = sum(position >= intact for position in positions)
        self._num_corrupt += num_corrupt
        return sink, num_corrupt

    def _decode_intact(self, kind: type[_Sink], gop: int, positions: Sequence[int], request: Request) -> _Sink:
        sink = kind((self.height, self.width), request, positions)
        for position, frame in self._decode(gop, positions[-1] + 1, vectors_only=request.streams == {"mv"}):
            sink.add(position, frame)
        return sink

    def _decode_iframe(self, gop: int) -> VideoFrame:
        self._check_gop(gop)
        try:
            ((_, frame),) = self._decode(gop, 1, vectors_only=False)
        except _DamagedFrameError as damage:
            forget_decoders()
            raise self._unreadable(gop, damage) from None
        return frame

    def _decode(self, gop: int, count: int, *, vectors_only: bool) -> Iterator[tuple[int, VideoFrame]]:
        """The first `count` frames of a GOP, each checked to be whole and of the expected type and size."""
        first, behind = self.index.coded_range(gop, count)
        start, places = self.index.gop_places[gop], self.index.places[first:behind].tolist()
        position = 0
        try:
            pictures = self._picture_source().read(first, behind)
            for frame in self._decoder(vectors_only).decode(pictures, places):
                if position == count or frame.pts is None or not start <= frame.pts < start + count:
                    continue  # leads up to this GOP, or is one more of a frame that came before
                self._check_frame(frame, gop, position)
                yield position, frame
                position += 1
        except (FFmpegError, OSError) as error:
            raise _DamagedFrameError(position, str(error)) from None
        if position != count:
            raise _DamagedFrameError(position, f"{position} of {count} frames could be decoded")

    def _check_frame(self, frame: VideoFrame, gop: int, position: int) -> None:
        if frame.pts != self.index.gop_places[gop] + position:
            raise _DamagedFrameError(position, "it could not be decoded")
        if frame.is_corrupt:
            raise _DamagedFrameError(position, "the decoder found it corrupt")
        if (frame.width, frame.height) != (self.width, self.height):
            came, expected = f"{frame.width}x{frame.height}", f"{self.width}x{self.height}"
            raise _DamagedFrameError(position, f"its size is {came} where the header says {expected}")
        if self.index.exports_vectors and PictureType(frame.pict_type).name != self.gops[gop].frame_types[position]:
            raise _DamagedFrameError(position, "its frame type differs from its header's")

    def _unreadable(self, gop: int, damaged: "_DamagedFrameError") -> UnreadableVideoError:
        reason = f"damaged at GOP {gop}, position {damaged.position}: {damaged.reason}"
        return UnreadableVideoError(self.path, reason, "fetch it again, or leave it out of the list")

    def _picture_source(self) -> FilePictures | DemuxedPictures:
        self._forget_if_forked()
        if self._pictures is None:
            self._pictures = self._open.enter_context(closing(open_pictures(self.path, self.index)))
        return self._pictures

    def _decoder(self, vectors_only: bool) -> PacketDecoder:
        index = self.index
        if index.exports_vectors:
            return packet_decoder(
                index.codec, index.extradata, vectors_only=vectors_only, is_reordered=index.is_reordered
            )
        self._forget_if_forked()
        if self._own_decoder is None:
            self._own_decoder = self._open.enter_context(file_decoder(self.path))
        return self._own_decoder

    def _forget_if_forked(self) -> None:
        """A child process opens everything anew: what it inherited is the parent's to use and to close."""
        if self._owner != os.getpid():
            self._start()


class KeptFrames:
    """Several positions of one GOP, decoded; see `CompressedVideo.keep_positions`.

    Attributes: `streams`, those that can be made.
    """

    def __init__(self, keeper: Keeper, num_corrupt: int, positions: Sequence[int], streams: frozenset[str]) -> None:
        self._keeper, self._num_corrupt, self._positions, self.streams = keeper, num_corrupt, positions, streams

    def read(self, stream: Stream) -> list[Frames]:
        """Makes one stream at the positions, as `CompressedVideo.read_positions` would; no other is touched.

        Raises:
            ValueError: nothing was decoded for it.
        """
        if stream not in self.streams:
            raise ValueError(f"stream {stream!r}: expected one of those kept, {sorted(self.streams)}")
        frames = self._keeper.frames(stream).repeat_last(self._num_corrupt)
        order = sorted(set(self._positions))
        return [frames.at(order.index(position)) for position in self._positions]


class _DamagedFrameError(Exception):
    """A frame that could not be decoded as the headers announce it."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(position, reason)
        self.position, self.reason = position, reason


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(allowed)}")
