"""The coded pictures of a video stream, one by one, in decoding order.

Most packets are one picture. Those that are not: a packet that shows nothing (a dropped frame, VP8's hidden
reference), and MPEG-4's packed bitstream, in which a P-frame and the B-frame behind it share a packet and the next
packet is a placeholder for the B-frame. The latter are taken apart, so that the rest of us never sees them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import av
from av.container import InputContainer

from datamodules.bitstream.headers import NOTHING, Picture, PictureParser


class CodedPicture(NamedTuple):
    """One picture, or a packet that shows none.

    Attributes:
        header: its type and what may refer to it.
        data: its bytes.
        position: where the container says that they stand in the file; None where it does not say.
        pts: presentation time in the stream's time base; None where the container stores none.
    """

    header: Picture
    data: bytes
    position: int | None
    pts: int | None


def coded_pictures(container: InputContainer, parser: PictureParser) -> Iterator[CodedPicture]:
    """Demuxes the first video stream of `container`, whose headers `parser` knows."""
    held: list[CodedPicture] = []
    for packet in container.demux(container.streams.video[0]):
        if not packet.size:
            continue
        found = _pictures_of(packet, parser)
        if held and found[0].header == NOTHING:
            yield held.pop(0)._replace(pts=packet.pts)
            continue
        yield from held
        yield found[0]
        held = found[1:]
    yield from held


def _pictures_of(packet: av.Packet, parser: PictureParser) -> list[CodedPicture]:
    data = bytes(packet)
    headers = parser.pictures(data, packet.is_keyframe) or [NOTHING]
    if len(headers) == 1:
        return [CodedPicture(headers[0], data, packet.pos, packet.pts)]
    starts = [0, *(header.start for header in headers[1:])]
    ends = [*starts[1:], len(data)]
    return [
        CodedPicture(header, data[start:end], None if packet.pos is None else packet.pos + start, packet.pts)
        for header, start, end in zip(headers, starts, ends, strict=True)
    ]
