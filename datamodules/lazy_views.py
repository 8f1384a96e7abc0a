"""The views of one video, stream by stream: each is decoded, converted and cut when it is asked for.

    plan --iframe first--> key packets alone ............................ later: the GOP prefixes, once
         --mv first------> GOP prefixes, once: source planes and YUV kept --> mv
                                                                       \\--> residual, iframe: colour and warp alone

Vectors alone (without inverse transform and loop filter) would save 16 to 24 % of an MPEG-4 prefix, and nothing of
H.264 as we encode it, but pixels would then need a second decode: that pays only where more than three videos in four
leave before the residual. So pixels are decoded along with vectors, unless no stream will ask for them. I-frames alone
take 16 to 28 % of a prefix: asked for first, they pay once that many videos leave on them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor

from datamodules.bitstream import CompressedVideo, Frames, UnreadableVideoError
from datamodules.bitstream.frames import Stream
from datamodules.bitstream.reader import KeptFrames
from datamodules.clip import parts_of
from datamodules.clip_reader import ClipPlan, ClipReader
from datamodules.failure import Failure, failure_of
from datamodules.flow_cache import Place

_FROM_PIXELS: set[Stream] = {"residual", "rgb", "flow"}  # of P-frames


class LazyViews:
    """Reads one video's streams as they are asked for (a `datamodules.clip.StreamSource`).

    What comes is bit for bit what `ClipReader.read` gives. Picklable, and tiny, where nothing is kept: before the first
    `read`, and behind a `read_alone` or a `close`.

    Attributes: `decode_seconds` spent on file, packets, colour and warp, `cut_seconds` on crops and resizing;
    `corrupt_frames`, damaged ones met so far for which earlier ones stand in.

    Args:
        reader: how views are read.
        plan: which ones.
        path: for messages.
    """

    def __init__(self, reader: ClipReader, plan: ClipPlan, path: str) -> None:
        self._reader, self._plan, self._path = reader, plan, path
        self._waiting = set(reader.views)
        self._kept: dict[int, KeptFrames] = {}
        self._shared: dict[Stream, dict[Place, Frames]] = {}
        self.decode_seconds = self.cut_seconds = 0.0
        self.corrupt_frames = 0

    def read(self, stream: str) -> Tensor | Failure:
        """A view of a stream, or the one it is made from, (V, T, C, S, S) uint8; or why it cannot be read."""
        try:
            with self._timed("decode_seconds"):
                frames = self._frames_of(stream)
        except (UnreadableVideoError, OSError) as error:
            return failure_of(self._path, error)
        self.corrupt_frames = max(self.corrupt_frames, self._plan.video.num_corrupt)  # the file may be open anew
        with self._timed("cut_seconds"):
            return self._reader.cut(stream, frames, self._plan)

    def read_alone(self, stream: str) -> Tensor | Failure:
        """As `read`, but closes the file behind it: nothing is decoded nor kept for other streams."""
        others, self._waiting = self._waiting - {stream}, {stream}
        views = self.read(stream)
        self.close()
        self._waiting = others
        return views

    def close(self) -> None:
        """Closes the file and drops what was decoded."""
        self._plan.video.close()
        self._kept.clear()
        self._shared.clear()

    def _frames_of(self, name: str) -> dict[Place, Frames]:
        """What a view is cut out of; kept for other views of the same streams that were not asked for yet."""
        streams = self._streams_of(name)
        for stream in streams:
            if stream not in self._shared:
                self._shared[stream] = self._collect(stream)
        found = _merged({stream: self._shared[stream] for stream in streams})
        self._waiting.discard(name)
        for stream in set(streams) - self._streams_waiting():
            del self._shared[stream]
        return found

    def _collect(self, stream: Stream) -> dict[Place, Frames]:
        if self._is_stored(stream) or (stream == "iframe" and not self._kept):
            return self._reader.collect(self._plan, [stream])
        return self._plan.collect(partial(self._read_gop, stream))

    def _is_stored(self, stream: Stream) -> bool:
        """Whether it comes from a cache, and not from a decode."""
        return stream == "flow" and self._reader.flow.cache is not None

    def _read_gop(self, stream: Stream, gop: int, positions: list[int]) -> list[Frames]:
        video, kept = self._plan.video, self._kept
        options = self._reader.read_options
        if gop not in kept and stream != "iframe" and self._streams_waiting() - {stream}:
            assert isinstance(video, CompressedVideo)  # others give one stream alone
            kept[gop] = video.keep_positions(gop, positions, streams=self._worth_keeping(stream), **options)
        if gop in kept and stream in kept[gop].streams:
            return kept[gop].read(stream)
        return video.read_positions(gop, positions, streams=(stream,), **options)

    def _worth_keeping(self, stream: Stream) -> set[Stream]:
        """What a decode of GOP prefixes for `stream` does for other streams as well."""
        wanted = {waiting for waiting in self._streams_waiting() | {stream} if not self._is_stored(waiting)}
        return wanted if wanted & _FROM_PIXELS else {stream}

    def _streams_waiting(self) -> set[Stream]:
        return {stream for name in self._waiting for stream in self._streams_of(name)}

    def _streams_of(self, name: str) -> tuple[Stream, ...]:
        return cast(tuple[Stream, ...], parts_of(self._reader.views[name].stream))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - began)


def _merged(frames: Mapping[Stream, dict[Place, Frames]]) -> dict[Place, Frames]:
    """By place the frames of several streams, each read by itself."""
    first, *others = frames.values()
    if not others:
        return first
    return {
        place: replace(at, **{stream: getattr(frames[stream][place], stream) for stream in frames})
        for place, at in first.items()
    }
