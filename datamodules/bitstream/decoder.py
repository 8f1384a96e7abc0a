"""A decoder that stays: one context per thread, codec and headers, fed with packets of any video that shares them."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

_OPTIONS = {"flags2": "+export_mvs", "flags": "+low_delay"}
_VECTORS_ONLY = {"skip_idct": "all", "skip_loop_filter": "all"}
_MAX_CONTEXTS = 16


class PacketDecoder:
    """Decodes runs of packets that begin at an I-frame.

    Args:
        context: set up for the stream, not yet open.
    """

    def __init__(self, context: av.VideoCodecContext) -> None:
        self._context = context
        # One thread: frame threads would delay frames, race on exported vectors and not survive a fork.
        self._context.thread_count = 1

    def decode(self, packets: Iterable[bytes | memoryview]) -> Iterator[VideoFrame]:
        """Frames of `packets`, lazily: a consumer that stops early leaves the rest undecoded."""
        self._context.flush_buffers()
        for number, data in enumerate(packets):
            packet = _padded_packet(data)
            packet.is_keyframe = number == 0  # some decoders (PNG) add to the last picture otherwise
            yield from self._context.decode(packet)
        yield from self._context.decode(None)


def _padded_packet(data: bytes | memoryview) -> av.Packet:
    # av.Packet(data) would lack the padding that decoders read past the end.
    packet = av.Packet(len(data))
    packet.update(data)  # type: ignore[arg-type]  # any buffer will do
    return packet


def _vector_decoder(codec: str, extradata: bytes, vectors_only: bool) -> PacketDecoder:
    context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "r"))
    context.options = _OPTIONS | (_VECTORS_ONLY if vectors_only else {})
    if extradata:
        context.extradata = extradata
    return PacketDecoder(context)


class _ThreadLocal(threading.local):
    def __init__(self) -> None:
        self.decoder = lru_cache(_MAX_CONTEXTS)(_vector_decoder)
        self.reformatter = VideoReformatter()


_local = _ThreadLocal()


def packet_decoder(codec: str, extradata: bytes, vectors_only: bool) -> PacketDecoder:
    """This thread's decoder for streams with these headers, of a codec that exports vectors; no B-frames.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the stream's global headers.
        vectors_only: leave out what vectors do not need (inverse transform, loop filter); pixels are then wrong.
    """
    return _local.decoder(codec, extradata, vectors_only)


@contextmanager
def file_decoder(path: str) -> Iterator[PacketDecoder]:
    """A decoder for this file alone, set up by its container, which knows parameters that headers leave out."""
    with av.open(path, metadata_errors="ignore") as container:
        yield PacketDecoder(container.streams.video[0].codec_context)


def to_rgb(frame: VideoFrame, colorspace: str) -> VideoFrame:
    """`frame` as packed RGB; `colorspace` is `"bt601"` whatever the frame's tags say, or `"tagged"` to honour them."""
    tag = Colorspace.ITU601 if colorspace == "bt601" else None
    return _local.reformatter.reformat(frame, format="rgb24", src_colorspace=tag, dst_colorspace=tag, threads=1)
