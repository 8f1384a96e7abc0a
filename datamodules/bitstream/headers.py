"""Picture types and reference structure, read from packet headers without decoding.

A container's keyframe flag is not enough: an I-frame need not be a keyframe, one packet may hold several pictures
(packed B-frames) or none, and whether a P-frame may look further back than one frame stands in the parameter sets.
Syntax: ISO/IEC 14496-2 (MPEG-4 part 2), 13818-2 (MPEG-2), 14496-10 (H.264) sections 7.3.2.1 and 7.3.3, RFC 6386
(VP8) section 9.1.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_START_CODE = b"\x00\x00\x01"
_VOP = _START_CODE + b"\xb6"
_INTERLACED = "its pictures may be interlaced"
MPEG = ("mpeg1video", "mpeg2video", "mpeg4")
_H264_SLICES = (1, 5)
_H264_IDR_SLICE = 5
_H264_SPS = 7
_H264_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


class Picture(NamedTuple):
    """The header of one coded picture.

    Attributes:
        type: `I`, `P`, `B`, `S` (sprite), `?` (not known, no I-frame), or `-` where a packet shows no picture.
        is_reference: whether later pictures may refer to it.
        is_entry: whether decoding may begin here.
        start: offset in its packet, bytes.
    """

    type: str
    is_reference: bool = True
    is_entry: bool = False
    start: int = 0


NOTHING = Picture("-", is_reference=False)
_VOPS = [Picture(kind, kind != "B", kind == "I") for kind in "IPBS"]  # by MPEG-4's vop_coding_type


class BitReader:
    """Reads big-endian bit fields; past the end it raises `EOFError`."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def bits(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise EOFError("header ends early")
        return (self._value >> self._left) & ((1 << count) - 1)

    def unsigned_golomb(self) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed_golomb(self) -> int:
        code = self.unsigned_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


class PictureParser:
    """Lists the pictures of each packet of one stream, in decoding order.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the stream's global headers.

    Attributes:
        exports_vectors: whether the codec's decoder exports motion vectors and this parser knows its picture types.
        types_tell_order: whether each B-frame stands behind the two frames that it is shown between.
        vector_obstacle: why the stream's vectors would be ambiguous, None where they are not.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.vector_obstacle: str | None = None
        self._time_increment_bits: int | None = None
        self._nal_length_size = (extradata[4] & 3) + 1 if codec == "h264" and extradata[:1] == b"\x01" else 0
        self._parse = _PARSERS.get(codec, PictureParser._flagged)
        self.types_tell_order = codec in MPEG
        self.exports_vectors = codec in (*MPEG, "h264")
        self._parse_headers(codec, extradata)

    def pictures(self, packet: bytes, is_keyframe: bool) -> list[Picture]:
        """The pictures in `packet` that are shown, mostly one.

        Args:
            packet: its bytes.
            is_keyframe: the container's flag, by which a codec without a parser goes.
        """
        return list(self._parse(self, packet, is_keyframe))

    def _parse_headers(self, codec: str, extradata: bytes) -> None:
        if codec == "mpeg4":
            self._mpeg4(extradata, False)
        elif codec == "h264":
            sets = _avcc_parameter_sets(extradata) if self._nal_length_size else _annex_b_units(extradata)
            list(self._h264_pictures(sets, False))

    def _flagged(self, data: bytes, is_keyframe: bool) -> Iterator[Picture]:
        yield Picture("I" if is_keyframe else "?", is_entry=is_keyframe)

    def _vp8(self, data: bytes, is_keyframe: bool) -> Iterator[Picture]:
        is_shown = data[0] >> 4 & 1
        if is_shown:
            yield from self._flagged(data, is_keyframe)

    def _mpeg4(self, data: bytes, is_keyframe: bool) -> list[Picture]:
        if data.startswith(_VOP) and data.find(_START_CODE, len(_VOP)) < 0:  # as most packets are
            return [_VOPS[data[4] >> 6]] if len(data) > 4 and self._is_coded_vop(data[4:23]) else []
        pictures = []
        for start in _start_codes(data):
            code = data[start]
            if 0x20 <= code <= 0x2F:
                self._time_increment_bits, is_interlaced = _vol_time_increment_bits_and_interlacing(
                    data[start + 1 : start + 48]
                )
                self._note_interlacing(is_interlaced)
            elif code == _VOP[-1] and self._is_coded_vop(data[start + 1 : start + 20]):
                pictures.append(_VOPS[data[start + 1] >> 6]._replace(start=start - len(_START_CODE)))
        return pictures

    def _is_coded_vop(self, header: bytes) -> bool:
        if len(header) < 2 or self._time_increment_bits is None:
            return len(header) >= 1
        # By shifts, not by a `BitReader`: this is asked of every packet.
        value, at = int.from_bytes(header, "big"), 8 * len(header) - 3  # behind the type
        while at >= 0 and value >> at & 1:  # modulo_time_base
            at -= 1
        at -= 1 + self._time_increment_bits + 2
        if at < 0:
            raise EOFError("header ends early")
        return bool(value >> at & 1)

    def _mpeg2(self, data: bytes, is_keyframe: bool) -> Iterator[Picture]:
        """One frame a packet, be it one picture or two fields."""
        types = ""
        for start in _start_codes(data):
            if data[start] == 0x00 and start + 2 < len(data):
                types += "?IPBD???"[data[start + 2] >> 3 & 7]
            elif data[start] == 0xB5 and start + 2 < len(data) and data[start + 1] >> 4 == 1:
                self._note_interlacing(not data[start + 2] >> 3 & 1)  # progressive_sequence
        if types:
            yield Picture(types[0], types[0] != "B", types[0] == "I")

    def _note_interlacing(self, is_interlaced: bool) -> None:
        if is_interlaced:
            self.vector_obstacle = self.vector_obstacle or _INTERLACED

    def _h264(self, data: bytes, is_keyframe: bool) -> Iterator[Picture]:
        size = self._nal_length_size
        units = _length_prefixed_units(data, size) if size else _annex_b_units(data)
        return self._h264_pictures(units, is_keyframe)

    def _h264_pictures(self, units: Iterator[bytes], is_keyframe: bool) -> Iterator[Picture]:
        """One frame a packet, be it one picture or two fields, of which the first tells the type."""
        types, is_reference = "", True
        for unit in units:
            kind = unit[0] & 0x1F
            if kind == _H264_SPS:
                self.vector_obstacle = self.vector_obstacle or _sps_obstacle(unit)
            elif kind in _H264_SLICES:
                first_macroblock, slice_type = _slice_position_and_type(unit)
                if first_macroblock == 0 and types:
                    break
                types += slice_type
                is_reference = bool(unit[0] >> 5 & 3)
                is_keyframe = is_keyframe or kind == _H264_IDR_SLICE
        if types:
            joint = _joint_type(types)
            yield Picture(joint, is_reference, joint == "I" and is_keyframe)


_PARSERS: dict[str, Callable[[PictureParser, bytes, bool], Iterable[Picture]]] = {
    "mpeg4": PictureParser._mpeg4,
    "h264": PictureParser._h264,
    "vp8": PictureParser._vp8,
    "mpeg1video": PictureParser._mpeg2,
    "mpeg2video": PictureParser._mpeg2,
}


def _start_codes(data: bytes) -> list[int]:
    """Positions of the byte behind each start code that has one."""
    places = []
    at, last = data.find(_START_CODE), len(data) - 3
    while 0 <= at < last:
        places.append(at + 3)
        at = data.find(_START_CODE, at + 3)
    return places


def _vol_time_increment_bits_and_interlacing(header: bytes) -> tuple[int, bool]:
    reader = BitReader(header)
    reader.bits(1 + 8)
    if reader.bits(1):  # is_object_layer_identifier: version and priority
        reader.bits(4 + 3)
    if reader.bits(4) == 15:  # extended aspect ratio
        reader.bits(16)
    if reader.bits(1):  # vol_control_parameters
        reader.bits(2 + 1)
        if reader.bits(1):  # vbv_parameters
            reader.bits(79)
    shape = reader.bits(2)
    reader.bits(1)
    increment_bits = max(1, (reader.bits(16) - 1).bit_length())
    reader.bits(1)
    if reader.bits(1):  # fixed_vop_rate
        reader.bits(increment_bits)
    if shape == 0:  # rectangular: width and height, each between markers
        reader.bits(1 + 13 + 1 + 13 + 1)
    return increment_bits, bool(reader.bits(1))


def _annex_b_units(data: bytes) -> Iterator[bytes]:
    starts = _start_codes(data)
    for start, following in zip(starts, [*starts, len(data) + 3][1:], strict=True):
        yield data[start : following - 3]


def _length_prefixed_units(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        if not length:
            return
        yield data[at + size : at + size + length]
        at += size + length


def _avcc_parameter_sets(extradata: bytes) -> Iterator[bytes]:
    """Sequence parameter sets of an avcC box (ISO/IEC 14496-15, 5.3.3.1.2)."""
    at = 6
    for _ in range(extradata[5] & 0x1F if len(extradata) > 5 else 0):
        length = int.from_bytes(extradata[at : at + 2], "big")
        if length:
            yield extradata[at + 2 : at + 2 + length]
        at += 2 + length


def _without_emulation(unit: bytes) -> bytes:
    return unit[1:].replace(b"\x00\x00\x03", b"\x00\x00")


def _slice_position_and_type(unit: bytes) -> tuple[int, str]:
    reader = BitReader(_without_emulation(unit[:24]))
    return reader.unsigned_golomb(), "PBIPI"[reader.unsigned_golomb() % 5]


def _joint_type(slice_types: str) -> str:
    """A picture is as dependent as its most dependent slice."""
    return next(kind for kind in "BPI" if kind in slice_types)


def _sps_obstacle(unit: bytes) -> str | None:
    reader = BitReader(_without_emulation(unit))
    profile = reader.bits(8)
    reader.bits(16)
    reader.unsigned_golomb()
    if profile in _H264_HIGH_PROFILES:
        _skip_high_profile_fields(reader)
    reader.unsigned_golomb()  # log2_max_frame_num
    _skip_picture_order(reader)
    references = reader.unsigned_golomb()
    reader.bits(1)
    reader.unsigned_golomb(), reader.unsigned_golomb()  # width and height in macroblocks
    if not reader.bits(1):
        return _INTERLACED
    if references > 1:
        return f"its P-frames may use {references} reference frames, where accumulation needs 1"
    return None


def _skip_high_profile_fields(reader: BitReader) -> None:
    chroma_format = reader.unsigned_golomb()
    if chroma_format == 3:
        reader.bits(1)
    reader.unsigned_golomb(), reader.unsigned_golomb()  # bit depths
    reader.bits(1)
    if reader.bits(1):  # scaling matrices
        for index in range(12 if chroma_format == 3 else 8):
            if reader.bits(1):
                _skip_scaling_list(reader, 16 if index < 6 else 64)


def _skip_scaling_list(reader: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.signed_golomb()) % 256
        last = following or last


def _skip_picture_order(reader: BitReader) -> None:
    kind = reader.unsigned_golomb()
    if kind == 0:
        reader.unsigned_golomb()
    elif kind == 1:
        reader.bits(1)
        reader.signed_golomb(), reader.signed_golomb()
        for _ in range(reader.unsigned_golomb()):
            reader.signed_golomb()
