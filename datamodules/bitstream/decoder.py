"""A decoder that stays: one context per thread, codec and headers, fed with packets of any video that shares them."""

import gc
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

from datamodules.bitstream.container import DECODER_LIMITS, limit_decoder, open_container

_OPTIONS = {"flags2": "+export_mvs", **DECODER_LIMITS}
_IN_ORDER = {"flags": "+low_delay"}
# H.264 streams need not tell how far they reorder frames: "strict" waits as long as the standard allows.
_REORDERED = {"strict": "strict"}
_VECTORS_ONLY = {"skip_idct": "all", "skip_loop_filter": "all"}
_MAX_CONTEXTS = 16

# What is garbage at a fork stays so in the child: its collection would wait for ever where it frees a picture's
# converter or a decoder that has threads, which live in the parent alone.
os.register_at_fork(after_in_child=gc.freeze)


class PacketDecoder:
    """Decodes runs of coded pictures that begin where decoding may begin.

    Args:
        context: set up for the stream, not yet open.
    """

    def __init__(self, context: av.VideoCodecContext) -> None:
        self._context = context

    def decode(self, pictures: Iterable[av.Packet], places: Iterable[int]) -> Iterator[VideoFrame]:
        """Frames in the order shown, lazily: a consumer that stops early leaves the rest undecoded.

        Args:
            pictures: coded pictures in decoding order, padded as decoders need it.
            places: a number for each, which comes back as the frame's `pts`.
        """
        self._context.flush_buffers()
        is_first = True
        for packet, place in zip(pictures, places, strict=True):
            packet.pts = place
            packet.is_keyframe = is_first  # some decoders (PNG) add to the last picture otherwise
            is_first = False
            yield from self._context.decode(packet)
        yield from self._context.decode(None)


def _new_decoder(codec: str, extradata: bytes, vectors_only: bool, is_reordered: bool) -> PacketDecoder:
    context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "r"))
    context.thread_count = 1  # see limit_decoder
    context.options = _OPTIONS | (_REORDERED if is_reordered else _IN_ORDER) | (_VECTORS_ONLY if vectors_only else {})
    if extradata:
        context.extradata = extradata
    return PacketDecoder(context)


class _ThreadLocal(threading.local):
    def __init__(self) -> None:
        self.decoder = lru_cache(_MAX_CONTEXTS)(_new_decoder)
        self.reformatter = VideoReformatter()
        self.grey_reformatter = VideoReformatter()  # one that alternates would be set up anew each time


_local = _ThreadLocal()


def packet_decoder(codec: str, extradata: bytes, *, vectors_only: bool, is_reordered: bool) -> PacketDecoder:
    """This thread's decoder for streams with these headers, of a codec that exports vectors.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the stream's global headers.
        vectors_only: leave out what vectors do not need (inverse transform, loop filter); pixels are then wrong.
        is_reordered: whether pictures are coded in another order than they are shown in.
    """
    return _local.decoder(codec, extradata, vectors_only, is_reordered)


def forget_decoders() -> None:
    """Drops this thread's decoders: damaged headers may have left them with frames of any size."""
    _local.decoder.cache_clear()


@contextmanager
def file_decoder(path: str) -> Iterator[PacketDecoder]:
    """A decoder for this file alone, set up by its container, which knows parameters that headers leave out."""
    with open_container(path) as container:
        yield PacketDecoder(limit_decoder(container.streams.video[0]))


def to_rgb(frame: VideoFrame, colorspace: str) -> VideoFrame:
    """`frame` as packed RGB; `colorspace` is `"bt601"` whatever the frame's tags say, or `"tagged"` to honour them."""
    tag = Colorspace.ITU601 if colorspace == "bt601" else None
    return _local.reformatter.reformat(frame, format="rgb24", src_colorspace=tag, dst_colorspace=tag, threads=1)


def to_grey(frame: VideoFrame) -> VideoFrame:
    """`frame` as grey levels: its luma."""
    return _local.grey_reformatter.reformat(frame, format="gray", threads=1)
