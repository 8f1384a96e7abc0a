"""What a compressed video holds: index, I-frames, motion vectors and residuals; and how to encode one."""

from datamodules.bitstream.encode import encode_frames, reencode
from datamodules.bitstream.errors import UnreadableVideoError
from datamodules.bitstream.frames import STREAMS, Frames
from datamodules.bitstream.index import Gop, VideoIndex, build_index
from datamodules.bitstream.reader import CompressedVideo

__all__ = [
    "STREAMS",
    "CompressedVideo",
    "Frames",
    "Gop",
    "UnreadableVideoError",
    "VideoIndex",
    "build_index",
    "encode_frames",
    "reencode",
]
