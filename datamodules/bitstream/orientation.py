"""How a video's frames are to be turned to stand upright.

PyAV shows a stream's display matrix with its first frame alone. In MP4 files it is made of those of the movie header
and the track header (ISO/IEC 14496-12, 8.2.2 and 8.3.2): where none of these turns anything, nothing is decoded.
"""

import os

from av.container import InputContainer
from av.error import FFmpegError

from datamodules.bitstream.container import limit_decoder
from datamodules.bitstream.headers import MPEG

_ROTATING_CONTAINERS = {"mov", "matroska"}
_MAX_MOVIE_BOX = 2**24  # bytes
_UNITY = b"".join(number.to_bytes(4, "big") for number in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
# From the type of a box to its matrix, where times have 32 bits; 12 bytes more where they have 64.
_MATRIX_OFFSETS = {b"mvhd": 40, b"tkhd": 44}


def rotation_of(container: InputContainer, descriptor: int) -> int:
    """Degrees counterclockwise, 0, 90, 180 or 270.

    Args:
        container: a video; its place changes.
        descriptor: of its file.
    """
    if not _ROTATING_CONTAINERS.intersection(container.format.name.split(",")):
        return 0
    # Headers of other codecs may turn frames, too.
    if container.streams.video[0].codec_context.name in MPEG and turns_nothing(_movie_box(descriptor)):
        return 0
    return _rotation_of_first_frame(container)


def turns_nothing(movie_box: bytes) -> bool:
    """Whether this MP4 box has headers, and the matrix of each is unity; in doubt it has not."""
    return all(_are_unity(movie_box, kind, offset) for kind, offset in _MATRIX_OFFSETS.items())


def _are_unity(box: bytes, kind: bytes, offset: int) -> bool:
    places = []
    at = box.find(kind)
    while at >= 0:
        places.append(at + offset + (12 if box[at + 4 : at + 5] == b"\x01" else 0))
        at = box.find(kind, at + 4)
    return bool(places) and all(box.startswith(_UNITY, place) for place in places)


def _movie_box(descriptor: int) -> bytes:
    """The first `moov` box without its header; nothing where there is none, or one too large."""
    start = 0
    while True:
        header = os.pread(descriptor, 16, start)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if not 8 <= size < 2**62:
            return b""  # a box to the end of the file, or no more boxes
        if kind == b"moov":
            return os.pread(descriptor, size - 8, start + 8) if size <= _MAX_MOVIE_BOX else b""
        start += size


def _rotation_of_first_frame(container: InputContainer) -> int:
    try:
        limit_decoder(container.streams.video[0])
        container.seek(0)
        first = next(container.decode(container.streams.video[0]))
    except (FFmpegError, StopIteration):
        return 0
    return round(first.rotation / 90) * 90 % 360
