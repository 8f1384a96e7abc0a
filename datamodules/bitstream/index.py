"""What a compressed video holds and where: coded pictures, their types and order, groups of pictures (GOPs).

I-frames are found from the stream itself, never by counting to 12 nor by the container's keyframe flag. Pictures are
numbered in decoding order; frames in the order in which they are shown, which B-frames make a different one.
"""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from datamodules.bitstream.coded_pictures import CodedPicture, coded_pictures
from datamodules.bitstream.container import MAX_PIXELS, open_container
from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.frames import MOTION_STREAMS
from datamodules.bitstream.headers import NOTHING, Picture, PictureParser
from datamodules.bitstream.orientation import rotation_of

_SLICE_SLACK = 32  # bytes by which a container may misplace a packet (Matroska: its block header)
_BUFFERED = 2**17  # bytes: pictures stand one behind the other, and many go into one read


@dataclass(frozen=True)
class Gop:
    """One group of pictures: an I-frame and the frames shown from it to the next one.

    Attributes:
        start: number of its I-frame in the video, from 0.
        length: frames.
        start_time: seconds since the video's first frame.
        duration: seconds.
        frame_types: one letter a frame in the order shown, e.g. `"IPPP"` or `"IBPBP"`.
    """

    start: int
    length: int
    start_time: float
    duration: float
    frame_types: str


@dataclass(frozen=True)
class VideoIndex:
    """Where every coded picture of a video is; picklable, and all that a reader needs besides the file.

    Attributes:
        path: the file.
        codec: FFmpeg's name of the video codec.
        width, height: pixels, as coded (`rotation` is not applied).
        rotation: degrees by which frames are to be turned counterclockwise to stand upright: 0, 90, 180 or 270.
        extradata: the stream's global headers.
        frame_duration: seconds, the stream's average.
        offsets, sizes: (P,) int64, bytes, of the coded pictures, in decoding order; offsets are -1 where the
            container's packets are no plain slices of the file.
        times: (P,) float64, seconds, when each is shown.
        types: their P types, see `headers.Picture`.
        shown: (F,) int64, the coded picture at each place in the order shown; some are never shown.
        entries: (P,) bool, where decoding may begin.
        exports_vectors: whether the codec's decoder exports motion vectors.
        vector_obstacle: why vectors cannot be accumulated over this stream, None where they can.
        order_obstacle: why the order in which frames are shown is not known; None where it is.
    """

    path: str
    codec: str
    width: int
    height: int
    rotation: int
    extradata: bytes = field(repr=False)
    frame_duration: float
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    times: np.ndarray = field(repr=False)
    types: str = field(repr=False)
    shown: np.ndarray = field(repr=False)
    entries: np.ndarray = field(repr=False)
    exports_vectors: bool
    vector_obstacle: str | None
    order_obstacle: str | None

    def refusal(self, streams: Collection[str]) -> str | None:
        """Why these streams cannot be read from this video as it is encoded; None where they can."""
        if not MOTION_STREAMS.isdisjoint(streams):
            if not self.exports_vectors:
                return f"decoders of its codec ({self.codec}) export no motion vectors"
            if self.vector_obstacle:
                return f"motion vectors cannot be accumulated: {self.vector_obstacle}"
            if all(gop.length == 1 for gop in self.gops):
                return "it has no P-frame, so no motion vectors"
        return self.order_obstacle if "rgb" in streams else None

    @property
    def is_sliceable(self) -> bool:
        """Whether pictures can be read from the file by offset and size."""
        return bool((self.offsets >= 0).all())

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels, once `rotation` is applied."""
        return (self.height, self.width) if self.rotation % 180 == 0 else (self.width, self.height)

    @cached_property
    def places(self) -> np.ndarray:
        """(P,) int64: the place of each coded picture in the order shown, -1 for what is never shown."""
        places = np.full(len(self.times), -1)
        places[self.shown] = np.arange(len(self.shown))
        return places

    @cached_property
    def is_reordered(self) -> bool:
        """Whether pictures are coded in another order than they are shown in."""
        return bool((np.diff(self.shown) < 0).any())

    @cached_property
    def gop_places(self) -> tuple[int, ...]:
        """The place in the order shown at which each GOP starts, and the one behind the last GOP."""
        starts = (place for place, picture in enumerate(self.shown.tolist()) if self.types[picture] == "I")
        return (*starts, len(self.shown))

    @cached_property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs in the order shown; frames before the first I-frame cannot be decoded and belong to none."""
        bounds, seconds = self.gop_places, self.times[self.shown] - self.times.min()
        times = [*seconds.tolist(), float(seconds.max()) + self.frame_duration]
        types = "".join(self.types[picture] for picture in self.shown.tolist())
        return tuple(
            Gop(
                start=first - bounds[0],
                length=behind - first,
                start_time=times[first],
                duration=times[behind] - times[first],
                frame_types=types[first:behind],
            )
            for first, behind in pairwise(bounds)
        )

    def coded_range(self, gop: int, count: int) -> tuple[int, int]:
        """The coded pictures to decode for the first `count` frames of a GOP: the first, and the one behind the last.

        They begin at the GOP's I-frame, or before it where decoding cannot begin there.
        """
        first = self.gop_places[gop]
        behind = first + count
        last = self.shown[first:behind].max() if self.is_reordered else self.shown[behind - 1]
        return self._gop_entries[gop], int(last) + 1

    @cached_property
    def _gop_entries(self) -> tuple[int, ...]:
        entries = np.flatnonzero(self.entries)
        iframes = self.shown[list(self.gop_places[:-1])]
        return tuple(entries[np.searchsorted(entries, iframes, side="right") - 1].tolist())

    @property
    def num_frames(self) -> int:
        """Decodable frames."""
        return self.gops[-1].start + self.gops[-1].length


def build_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Reads the index of the video at `path` by demuxing its packets; nothing is decoded.

    Raises:
        UnreadableVideoError: no such file or a folder, no container FFmpeg knows, no video stream, or no I-frame in it.
    """
    path = os.fspath(path)
    _check_file(path)
    try:
        with open_container(path) as container, open(path, "rb", buffering=_BUFFERED) as file:
            if not container.streams.video:
                raise UnreadableVideoError(path, "it holds no video stream", "leave it out of the list")
            return _index_container(path, container, file)
    except (FFmpegError, EOFError, IndexError, UnicodeError) as error:
        raise UnreadableVideoError(
            path, f"its container or headers cannot be parsed ({error})", "fetch it again, or re-encode it"
        ) from error


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        status = None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UnreadableVideoError(path, "it is a folder without video files", "name files, or other folders")
    if status is None or not stat.S_ISREG(status.st_mode):
        raise UnreadableVideoError(path, "there is no such file", "check the path")
    if not status.st_size:
        raise UnreadableVideoError(path, "the file is empty", "fetch it again, or leave it out of the list")


def _index_container(path: str, container: InputContainer, file: BinaryIO) -> VideoIndex:
    stream = container.streams.video[0]
    context = _checked_context(path, stream)
    parser = PictureParser(context.name, context.extradata or b"")
    offsets, sizes, pts, headers = _locate_pictures(file, container, parser)
    types = "".join(header.type for header in headers)
    if "I" not in types:
        raise UnreadableVideoError(path, "its video stream holds no I-frame", "fetch it again, or re-encode it")
    frame_duration = float(1 / (stream.average_rate or stream.guessed_rate or Fraction(25)))
    times = _seconds(pts, stream.time_base or Fraction(1), frame_duration)
    shown = _order_shown(types, times)
    if "B" in types and parser.types_tell_order:
        shown = _order_by_types(types)
        times[shown] = np.sort(times[shown])  # AVI has the times of decoding
    return VideoIndex(
        path=path,
        codec=context.name,
        width=context.width,
        height=context.height,
        rotation=rotation_of(container, file.fileno()),
        extradata=context.extradata or b"",
        frame_duration=frame_duration,
        offsets=np.array(offsets, np.int64),
        sizes=np.array(sizes, np.int64),
        times=times,
        types=types,
        shown=shown,
        entries=_entries(headers),
        exports_vectors=parser.exports_vectors,
        vector_obstacle=parser.vector_obstacle or _structure_obstacle(headers),
        order_obstacle=_order_obstacle(container, parser, types, pts),
    )


def _checked_context(path: str, stream: VideoStream) -> VideoCodecContext:
    context = stream.codec_context
    if context is None:
        raise UnreadableVideoError(path, "FFmpeg has no decoder for its video stream", "re-encode it elsewhere")
    if not 0 < context.width * context.height <= MAX_PIXELS:
        reason = f"its pictures are {context.width}x{context.height}, expected 1 to {MAX_PIXELS} pixels"
        raise UnreadableVideoError(path, reason, "scale it down, or fetch it again")
    return context


def _locate_pictures(
    file: BinaryIO, container: InputContainer, parser: PictureParser
) -> tuple[list[int], list[int], list[int | None], list[Picture]]:
    """Offsets, sizes, presentation times and headers of the P coded pictures."""
    # Lists as far as it goes: of a few dozen pictures, arrays take longer to set up than all that is done to them.
    offsets, sizes, pts, headers = [], [], [], []
    for picture in coded_pictures(container, parser):
        offsets.append(_find_slice(file, picture))
        sizes.append(len(picture.data))
        pts.append(picture.pts)
        headers.append(picture.header)
    return offsets, sizes, pts, headers


def _order_obstacle(container: InputContainer, parser: PictureParser, types: str, pts: list[int | None]) -> str | None:
    """Why the order in which frames are shown is not known."""
    may_reorder = (
        "B" in types if parser.exports_vectors else bool(container.streams.video[0].codec_context.has_b_frames)
    )
    if not may_reorder or parser.types_tell_order:
        return None
    stores_order = container.format.name != "avi" and None not in pts and len(set(pts)) == len(pts)
    return None if stores_order else "its container does not store when its B-frames are shown"


def _entries(headers: list[Picture]) -> np.ndarray:
    """Where decoding may begin; the first I-frame is taken for such a place whatever it says."""
    entries = np.array([header.is_entry for header in headers])
    entries[[header.type for header in headers].index("I")] = True
    return entries


def _order_shown(types: str, seconds: np.ndarray) -> np.ndarray:
    """(F,) int64: the pictures that are shown, by time."""
    pictures = [number for number, kind in enumerate(types) if kind != NOTHING.type]
    return np.array(sorted(pictures, key=seconds.tolist().__getitem__), np.int64)


def _order_by_types(types: str) -> np.ndarray:
    """The same for MPEG: a B-frame is shown at once, any other when the next one comes.

    types = "IPBBPB" -> [0, 2, 3, 1, 5, 4]
    """
    order: list[int] = []
    waiting: list[int] = []
    for number, kind in enumerate(types):
        if kind == "B":
            order.append(number)
        elif kind != NOTHING.type:
            order += waiting
            waiting = [number]
    return np.array(order + waiting)


def _find_slice(file: BinaryIO, picture: CodedPicture) -> int:
    """Offset in the file at which a picture stands, -1 where it stands nowhere near its position."""
    if picture.position is None:
        return -1
    file.seek(picture.position)
    around = file.read(len(picture.data) + _SLICE_SLACK)
    found = 0 if around.startswith(picture.data) else around.find(picture.data)
    return picture.position + found if found >= 0 else -1


def _seconds(pts: list[int | None], time_base: Fraction, frame_duration: float) -> np.ndarray:
    if None in pts:
        return np.arange(len(pts)) * frame_duration
    return np.array(pts, np.int64) * float(time_base)


def _structure_obstacle(headers: list[Picture]) -> str | None:
    """Why a stream of these pictures is not a chain of I- and P-frames, each predicted from the one before."""
    kinds = {header.type for header in headers}
    if "B" in kinds:
        return "it has B-frames"
    if "S" in kinds:
        return "it has sprite pictures (global motion compensation)"
    shown = [header for header in headers if header != NOTHING]
    if any(not header.is_reference and following.type == "P" for header, following in pairwise(shown)):
        return "some of its P-frames skip the frame before them"
    return None
