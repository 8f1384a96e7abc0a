"""A decoder that stays: one context per thread, codec and headers, fed with packets of any video that shares them."""

import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import cast

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

_OPTIONS = {"flags2": "+export_mvs", "flags": "+low_delay"}
_VECTORS_ONLY = {"skip_idct": "all", "skip_loop_filter": "all"}
_MAX_CONTEXTS = 16


class PacketDecoder:
    """Decodes runs of packets that begin at an I-frame and hold no B-frames: one packet, one frame, at once.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the stream's global headers.
        vectors_only: leave out what vectors do not need (inverse transform, loop filter); pixels are then wrong.
    """

    def __init__(self, codec: str, extradata: bytes, vectors_only: bool) -> None:
        # One thread: frame threads would delay frames, race on exported vectors and not survive a fork.
        self._context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "r"))
        self._context.thread_count = 1
        self._context.options = _OPTIONS | (_VECTORS_ONLY if vectors_only else {})
        if extradata:
            self._context.extradata = extradata

    def decode(self, packets: Iterable[bytes | memoryview]) -> Iterator[VideoFrame]:
        """Frames of `packets`, lazily: a consumer that stops early leaves the rest undecoded."""
        self._context.flush_buffers()
        for data in packets:
            yield from self._context.decode(_padded_packet(data))
        yield from self._context.decode(None)


def _padded_packet(data: bytes | memoryview) -> av.Packet:
    packet = av.Packet(len(data))  # allocates the padding that decoders read past the end; av.Packet(data) does not
    packet.update(data)  # type: ignore[arg-type]  # any buffer will do
    return packet


class _ThreadLocal(threading.local):
    def __init__(self) -> None:
        self.decoder = lru_cache(_MAX_CONTEXTS)(PacketDecoder)
        self.reformatter = VideoReformatter()


_local = _ThreadLocal()


def packet_decoder(codec: str, extradata: bytes, vectors_only: bool) -> PacketDecoder:
    """This thread's decoder for streams with these headers."""
    return _local.decoder(codec, extradata, vectors_only)


def to_rgb(frame: VideoFrame, colorspace: str) -> VideoFrame:
    """`frame` as packed RGB; `colorspace` is `"bt601"` whatever the frame's tags say, or `"tagged"` to honour them."""
    tag = Colorspace.ITU601 if colorspace == "bt601" else None
    return _local.reformatter.reformat(frame, format="rgb24", src_colorspace=tag, dst_colorspace=tag, threads=1)
