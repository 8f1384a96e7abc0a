"""What a compressed video holds and where: packets, picture types, groups of pictures (GOPs), without decoding.

I-frames are found from the stream itself, never by counting to 12 nor by the container's keyframe flag.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.headers import Picture, PictureParser

_NO_PTS = np.iinfo(np.int64).min
_SLICE_SLACK = 32  # bytes by which a container may misplace a packet (Matroska: its block header)


@dataclass(frozen=True)
class Gop:
    """One group of pictures: an I-frame and what depends on it.

    Attributes:
        start: number of its I-frame in decoding order, from 0.
        length: frames.
        start_time: seconds since the video's first frame.
        duration: seconds.
        frame_types: one letter a frame in decoding order, e.g. `"IPPP"`.
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
        width, height: pixels, as coded (a rotation flag is not applied).
        extradata: the stream's global headers.
        frame_duration: seconds, the stream's average.
        offsets, sizes: (P,) int64, bytes, of the stream's packets; offsets are -1 where the container's packets are
            no plain slices of the file.
        times: (P,) float64, seconds, presentation time since the first frame.
        packet_types: the picture types in each packet, in decoding order, e.g. `("I", "P", "PB", "")`.
        exports_vectors: whether the codec's decoder exports motion vectors.
        vector_obstacle: why vectors cannot be accumulated over this stream, None where they can.
    """

    path: str
    codec: str
    width: int
    height: int
    extradata: bytes = field(repr=False)
    frame_duration: float
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    times: np.ndarray = field(repr=False)
    packet_types: tuple[str, ...] = field(repr=False)
    exports_vectors: bool
    vector_obstacle: str | None

    @property
    def vector_refusal(self) -> str | None:
        """Why motion vectors and residuals cannot be read from this video as it is encoded; None where they can."""
        if not self.exports_vectors:
            return f"decoders of its codec ({self.codec}) export no motion vectors"
        if self.vector_obstacle:
            return f"motion vectors cannot be accumulated: {self.vector_obstacle}"
        return None

    @property
    def is_sliceable(self) -> bool:
        """Whether packets can be read from the file by offset and size."""
        return bool((self.offsets >= 0).all())

    @cached_property
    def gop_packets(self) -> tuple[int, ...]:
        """The packet that each GOP starts at, and the number of packets behind the last."""
        starts = (number for number, types in enumerate(self.packet_types) if types.startswith("I"))
        return (*starts, len(self.packet_types))

    @cached_property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs in decoding order; pictures in front of the first I-frame cannot be decoded and belong to none."""
        bounds, gops, start = self.gop_packets, [], 0
        end_time = float(self.times.max()) + self.frame_duration
        for first, behind in pairwise(bounds):
            types = "".join(self.packet_types[first:behind])
            until = self.times[behind] if behind < len(self.times) else end_time
            time = float(self.times[first])
            gops.append(Gop(start, len(types), time, float(until) - time, types))
            start += len(types)
        return tuple(gops)

    def packets_of(self, gop: int, count: int) -> tuple[int, int]:
        """First packet, and the one behind the last, that hold the first `count` frames of a GOP."""
        first, behind = self.gop_packets[gop : gop + 2]
        held = np.cumsum([len(types) for types in self.packet_types[first:behind]])
        return first, first + int(np.searchsorted(held, count)) + 1

    @property
    def num_frames(self) -> int:
        """Decodable frames."""
        return self.gops[-1].start + self.gops[-1].length


def build_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Reads the index of the video at `path` by demuxing its packets; nothing is decoded.

    Raises:
        UnreadableVideoError: no such file, no container FFmpeg knows, no video stream, or no I-frame in it.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UnreadableVideoError(path, "there is no such file", "check the path")
    if not os.path.getsize(path):
        raise UnreadableVideoError(path, "the file is empty", "fetch it again, or leave it out of the list")
    try:
        with av.open(path, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UnreadableVideoError(path, "it holds no video stream", "leave it out of the list")
            return _index_container(path, container)
    except (FFmpegError, EOFError, IndexError, UnicodeError) as error:
        raise UnreadableVideoError(
            path, f"its container or headers cannot be parsed ({error})", "fetch it again, or re-encode it"
        ) from error


def _index_container(path: str, container: InputContainer) -> VideoIndex:
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise UnreadableVideoError(path, "FFmpeg has no decoder for its video stream", "re-encode it elsewhere")
    parser = PictureParser(context.name, context.extradata or b"")
    offsets, sizes, pts, pictures = [], [], [], []
    with open(path, "rb") as file:
        for packet in video_packets(container):
            data = bytes(packet)
            offsets.append(_find_slice(file.fileno(), packet.pos, data))
            sizes.append(packet.size)
            pts.append(_NO_PTS if packet.pts is None else packet.pts)
            pictures.append(parser.pictures(data, packet.is_keyframe))
    packet_types = tuple("".join(picture.type for picture in found) for found in pictures)
    if not any(types.startswith("I") for types in packet_types):
        raise UnreadableVideoError(path, "its video stream holds no I-frame", "fetch it again, or re-encode it")
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return VideoIndex(
        path=path,
        codec=context.name,
        width=context.width,
        height=context.height,
        extradata=context.extradata or b"",
        frame_duration=float(1 / rate),
        offsets=np.array(offsets, np.int64),
        sizes=np.array(sizes, np.int64),
        times=_seconds(np.array(pts, np.int64), stream.time_base or Fraction(1), float(1 / rate)),
        packet_types=packet_types,
        exports_vectors=parser.exports_vectors,
        vector_obstacle=parser.vector_obstacle or _structure_obstacle(pictures),
    )


def video_packets(container: InputContainer) -> Iterator[av.Packet]:
    """The packets that an index counts, in decoding order."""
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _find_slice(descriptor: int, position: int | None, data: bytes) -> int:
    """Offset in the file at which `data` stands, -1 where it stands nowhere near `position`."""
    if position is None:
        return -1
    found = os.pread(descriptor, len(data) + _SLICE_SLACK, position).find(data)
    return position + found if found >= 0 else -1


def _seconds(pts: np.ndarray, time_base: Fraction, frame_duration: float) -> np.ndarray:
    if (pts == _NO_PTS).any():
        return np.arange(len(pts)) * frame_duration
    return (pts - pts.min()) * float(time_base)


def _structure_obstacle(pictures: list[list[Picture]]) -> str | None:
    """Why a stream of these packets is not a chain of I- and P-frames, each predicted from the one before."""
    if any(len(found) > 1 for found in pictures):
        return "its packets hold several pictures (packed B-frames or fields)"
    kinds = {picture.type for found in pictures for picture in found}
    if "B" in kinds:
        return "it has B-frames"
    if "S" in kinds:
        return "it has sprite pictures (global motion compensation)"
    flat = [picture for found in pictures for picture in found]
    followed = pairwise(flat)
    if any(not picture.is_reference and following.type == "P" for picture, following in followed):
        return "some of its P-frames skip the frame before them"
    return None
