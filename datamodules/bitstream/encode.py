"""Encodes video for compressed-domain recognition: I- and P-frames, one reference, GOPs of a fixed length.

CoViAR (Wu et al., CVPR 2018) re-encodes its data sets as MPEG-4 part 2, constant quantiser 1, GOP 12. The
H.264 recipe has the same structure, for which the decoder's motion vectors are unambiguous. Files are MP4,
written whole or not at all. One thread an encoder, so that equal frames give equal files.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from datamodules.bitstream.container import limit_decoder, open_container
from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.headers import PictureParser
from datamodules.whole_file import PathLike, written_whole

Codec = Literal["mpeg4", "h264"]
Progress = Callable[[int, int], None]
Paint = Callable[[np.ndarray], None]

_ENCODERS = {"mpeg4": "mpeg4", "h264": "libx264"}
_DEFAULT_QUALITY = {"mpeg4": 1, "h264": 18}
# MPEG-4 part 2 stores the ticks of a second in 16 bits; MP4 stores them in 32.
_MAX_TICKS_PER_SECOND = {"mpeg4": 65_535, "h264": 2**31 - 1}
_MAX_SIDE = {"mpeg4": 8_191, "h264": 16_384}  # pixels that the encoders take
# Filters that turn a frame counterclockwise, by quarters of a turn.
_TURNS = ((), (("transpose", "cclock"),), (("hflip",), ("vflip",)), (("transpose", "clock"),))
_SUFFIXES = (".mp4", ".mov")
_PLACEHOLDER = bytes(1)  # the decoder takes the waiting frame in its place, whatever it holds
_REMEDY = "check that it is a whole video file (`ffprobe FILE`), or leave it out"


def encode_frames(
    frames: Iterable[np.ndarray],
    path: PathLike,
    *,
    frame_rate: float | Fraction = 30,
    codec: Codec = "mpeg4",
    gop_size: int = 12,
    quality: int | None = None,
) -> None:
    """Encodes pictures to `path`, at a constant frame rate.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, H and W even. Stored as YUV 4:2:0, BT.601.
        path: an .mp4 or .mov file, replaced if it exists.
        frame_rate: frames per second.
        codec: `mpeg4` (part 2) or `h264`.
        gop_size: frames from one I-frame to the next.
        quality: less is better: constant quantiser 1..31 for `mpeg4` (default 1), CRF 0..51 for `h264`
            (default 18).

    Raises:
        ValueError: no frames, a frame of another shape or type, an odd size, or another kind of file.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{os.fspath(path)}: expected at least one frame to encode, got none")
    height, width = _checked(first, first.shape).shape[:2]
    time_base = 1 / Fraction(frame_rate).limit_denominator(1001)
    with VideoWriter(path, (width, height), time_base, codec=codec, gop_size=gop_size, quality=quality) as writer:
        for tick, frame in enumerate(chain([first], iterator)):
            writer.write(av.VideoFrame.from_ndarray(_checked(frame, first.shape), format="rgb24"), tick)


def reencode(
    source: PathLike,
    target: PathLike,
    *,
    codec: Codec = "mpeg4",
    gop_size: int = 12,
    size: tuple[int, int] | None = None,
    quality: int | None = None,
    paint: Paint | None = None,
    progress: Progress | None = None,
    synced: bool = True,
) -> "Reencoded":
    """Re-encodes the video stream of `source` to `target`, frame by frame, timestamps kept.

    Timestamps are exact wherever a tick that divides all of them is long enough to be stored (constant frame
    rates, and variable ones in usual time bases). Otherwise `mpeg4` rounds them to 1/65535 s, so by 8
    microseconds at most. Negative times are shifted to start at zero; where the source stores no times (raw
    streams, AVI with B-frames) its frames are one interval of its frame rate apart. Pixels keep the source's
    YUV matrix, and are turned upright where the source has a rotation flag.

    Args:
        source: any video that PyAV decodes.
        target: an .mp4 or .mov file, replaced if it exists; may be `source` itself.
        codec, gop_size, quality: as in `encode_frames`.
        size: (width, height) in pixels, both even, scaled bicubically; `None` keeps the source's size, where
            an odd side is scaled down by one pixel (4:2:0 chroma needs even sides).
        paint: changes every picture, upright and of its final size, in place: (3 * H / 2, W) uint8, the planes Y, U and
            V one after the other.
        progress: called with (frames done, frames in all) after every frame.
        synced: see `written_whole`.

    Returns:
        How many frames were written, and how many the source says not to show.

    Raises:
        UnreadableVideoError: `source` cannot be opened or decoded to its end, or is too large or small for `codec`.
        ValueError: an odd `size`, a quality or GOP size out of range, or another kind of target.
    """
    clock = _clock(source)
    tick = clock.tick(_MAX_TICKS_PER_SECOND[codec])
    decoded = _decoded(source)
    first = next(decoded)
    size = size or _own_size(source, first, codec)
    options: dict[str, Any] = {"codec": codec, "gop_size": gop_size, "quality": quality}
    ticks = clock.time_base / tick
    per_unit = ticks if ticks.denominator > 1 else int(ticks)  # for the rule, whole numbers are enough, and fast
    with VideoWriter(target, size, tick, **options, paint=paint, synced=synced) as writer:
        for index, frame in enumerate(chain([first], decoded)):
            writer.write(frame, round(clock.time(frame, index) * per_unit))
            if progress is not None:
                progress(index + 1, max(index + 1, clock.num_frames))
    return Reencoded(index + 1, clock.num_cut)


@dataclass(frozen=True)
class Reencoded:
    """What became of a source's pictures.

    Attributes:
        num_frames: that were decoded and written.
        num_cut: coded pictures that the source's edit list leaves out, as players do; e.g. those between a keyframe
            and the start of a clip that was cut without re-encoding.
    """

    num_frames: int
    num_cut: int


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Encodes frames with given timestamps into a file that appears, whole, when the `with` block ends well.

    Args:
        path: an .mp4 or .mov file.
        size: (width, height), both even; frames of another size are scaled.
        time_base: seconds per tick.
        codec, gop_size, quality: as in `encode_frames`.
        paint, synced: as in `reencode`.
    """

    def __init__(
        self,
        path: PathLike,
        size: tuple[int, int],
        time_base: Fraction,
        *,
        codec: Codec = "mpeg4",
        gop_size: int = 12,
        quality: int | None = None,
        paint: Paint | None = None,
        synced: bool = True,
    ) -> None:
        _check_suffix(path)
        _check_size(size)
        self.time_base = time_base
        self.last_tick = -1
        self._size = size
        self._paint = paint
        self._options = _codec_options(codec, gop_size, quality)
        self._encoder = _ENCODERS[codec]
        self._reformatter = VideoReformatter()
        self._file = written_whole(path, synced=synced)

    def __enter__(self) -> "VideoWriter":
        self._container = av.open(f"file:{self._file.__enter__()}", "w", options=self._muxer_options())
        width, height = self._size
        stream = self._container.add_stream(
            self._encoder, rate=1 / self.time_base, options=self._options, time_base=self.time_base
        )
        self._stream = cast(av.VideoStream, stream)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.thread_count = 1
        return self

    def write(self, frame: av.VideoFrame, tick: int) -> None:
        """Encodes a frame at `tick`, or one tick after the last frame if that is not later than it."""
        picture = self._painted(self._to_yuv(frame))
        picture.time_base = self.time_base
        picture.pts = self.last_tick = max(tick, self.last_tick + 1)
        picture.pict_type = 0  # else the encoder repeats the source's I-frames
        self._container.mux(self._stream.encode(picture))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except BaseException as failure:
            self._file.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._file.__exit__(kind, error, traceback)

    def _muxer_options(self) -> dict[str, str]:
        # The movie's own time scale holds the start time: milliseconds unless it is told.
        return {"fflags": "+bitexact", "movie_timescale": str(self.time_base.denominator)}

    def _painted(self, picture: av.VideoFrame) -> av.VideoFrame:
        if self._paint is None:
            return picture
        planes = picture.to_ndarray()  # a copy: decoders still refer to the frame itself
        self._paint(planes)
        return av.VideoFrame.from_ndarray(planes, format="yuv420p")

    def _to_yuv(self, frame: av.VideoFrame) -> av.VideoFrame:
        width, height = self._size
        colorspace = Colorspace.ITU601 if frame.format.is_rgb else None
        return self._reformatter.reformat(
            frame,
            width,
            height,
            "yuv420p",
            src_colorspace=colorspace,
            dst_colorspace=colorspace,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )


def _codec_options(codec: Codec, gop_size: int, quality: int | None) -> dict[str, str]:
    """libavcodec's options for I/P streams, one reference, I-frames at multiples of `gop_size` alone."""
    if gop_size < 1:
        raise ValueError(f"gop_size: expected 1 or more frames, got {gop_size}")
    quality = _DEFAULT_QUALITY[codec] if quality is None else quality
    common = {"g": str(gop_size), "bf": "0", "refs": "1", "flags": "+bitexact"}
    return common | {"mpeg4": _mpeg4_options, "h264": _h264_options}[codec](gop_size, quality)


def _mpeg4_options(gop_size: int, quantiser: int) -> dict[str, str]:
    if not 1 <= quantiser <= 31:
        raise ValueError(f"quality: expected an MPEG-4 quantiser from 1 (best) to 31, got {quantiser}")
    return {
        # Not `qscale`: it takes lambda from the frame, where PyAV cannot set it, and motion search needs it.
        "qmin": str(quantiser),
        "qmax": str(quantiser),
        "i_qfactor": "1",
        "sc_threshold": "1000000000",
    }


def _h264_options(gop_size: int, crf: int) -> dict[str, str]:
    if not 0 <= crf <= 51:
        raise ValueError(f"quality: expected an H.264 CRF from 0 (best) to 51, got {crf}")
    return {
        "crf": str(crf),
        "keyint_min": str(gop_size),
        "sc_threshold": "0",
        "tune": "fastdecode",
        "weightp": "0",
    }


def _own_size(source: PathLike, frame: av.VideoFrame, codec: Codec) -> tuple[int, int]:
    """(width, height) of `frame`, both even."""
    size = (frame.width // 2 * 2, frame.height // 2 * 2)
    if min(size) < 2 or max(size) > _MAX_SIDE[codec]:
        reason = f"its pictures are {frame.width}x{frame.height}, {codec} takes sides of 2 to {_MAX_SIDE[codec]} pixels"
        raise UnreadableVideoError(source, reason, "scale it: streamkd reencode --size '[width, height]'")
    return size


def _checked(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
        raise ValueError(f"expected (H, W, 3) uint8 frames of one shape, {shape}; got {frame.shape} {frame.dtype}")
    return np.ascontiguousarray(frame)


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"size: expected an even width and height (4:2:0 chroma needs them), got {size[0]}x{size[1]}")


def _check_suffix(path: PathLike) -> None:
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{os.fspath(path)}: expected a file name that ends in {' or '.join(_SUFFIXES)}")


@dataclass(frozen=True)
class _Clock:
    """When the frames of a source are shown.

    Args:
        times: the packets' presentation times in units of `time_base`; empty where the source stores none.
        time_base: seconds per unit; the frame interval where the source stores no times.
        num_frames: as many as the container has packets to be shown.
        num_cut: packets that its edit list leaves out.
    """

    times: tuple[int, ...]
    time_base: Fraction
    num_frames: int
    num_cut: int

    def tick(self, max_per_second: int) -> Fraction:
        """Seconds: the longest that divides all times; where that is too short, the shortest storable one."""
        step = math.gcd(*(time - self.start for time in self.times)) or 1
        tick = step * self.time_base
        return tick if tick.denominator <= max_per_second else Fraction(1, max_per_second)

    def time(self, frame: av.VideoFrame, index: int) -> int:
        """In units of `time_base`, from 0."""
        return frame.pts - self.start if self.times and frame.pts is not None else index

    @cached_property
    def start(self) -> int:
        """The first of the times, if it is before 0."""
        return min(0, min(self.times, default=0))


def _clock(source: PathLike) -> _Clock:
    with _readable(source), open_container(source, for_times=True) as container:
        stream = _video_stream(source, container)
        packets = [(packet.pts, packet.is_discard) for packet in container.demux(stream) if packet.size]
        times = tuple(time for time, _ in packets if time is not None)
        num_cut = sum(is_cut for _, is_cut in packets)
        counts = (len(packets) - num_cut, num_cut)
        # AVI with B-frames and raw streams hold the coding order only: their frames are one interval apart.
        coding_order = container.format.name == "avi" and stream.codec_context.has_b_frames
        if coding_order or len(times) < len(packets) or stream.time_base is None:
            return _Clock((), 1 / Fraction(stream.average_rate or 30), *counts)
        return _Clock(times, stream.time_base, *counts)


def _decoded(source: PathLike) -> Iterator[av.VideoFrame]:
    """The frames of `source` in presentation order, at least one; only errors of the source become ours."""
    count = 0
    with _readable(source), open_container(source) as container:
        stream = _video_stream(source, container)
        limit_decoder(stream)
        for frame in _upright(_frames(container, stream)):
            count += 1
            yield frame
    if count == 0:
        raise UnreadableVideoError(source, "expected at least one decodable frame, found none", _REMEDY)


def _frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames, the one too that MPEG-4's packed bitstream ends on: it waits in the decoder for a placeholder."""
    last = None
    for packet in container.demux(stream):
        if packet.size:
            last = packet
        elif last is not None and _may_wait(last, stream.codec_context):
            with suppress(av.InvalidDataError):  # none was waiting
                yield from stream.codec_context.decode(av.Packet(_PLACEHOLDER))
        yield from packet.decode()


def _may_wait(packet: av.Packet, context: av.VideoCodecContext) -> bool:
    if context.name != "mpeg4":
        return False
    pictures = PictureParser(context.name, context.extradata or b"").pictures(bytes(packet), packet.is_keyframe)
    return "B" in (picture.type for picture in pictures)


def _upright(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The frames turned as the source's display matrix says."""
    first = next(frames, None)
    if first is None:
        return
    filters = _TURNS[round(first.rotation / 90) % 4]
    if not filters:
        yield from chain([first], frames)
        return
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=first.time_base),
        *(graph.add(*node) for node in filters),
        graph.add("buffersink"),
    ).configure()
    for frame in chain([first], frames):
        graph.push(frame)
        yield graph.vpull()


def _video_stream(source: PathLike, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise UnreadableVideoError(source, "expected a video stream, found none", _REMEDY)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UnreadableVideoError(source, "FFmpeg has no decoder for its video stream", _REMEDY)
    return stream


@contextmanager
def _readable(source: PathLike) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise UnreadableVideoError(source, f"cannot be decoded ({error.strerror})", _REMEDY) from error
