"""Plain frames of a video by their numbers, through decord; refused where decord would give other frames.

decord 0.6 is fast at this, but brings an FFmpeg of 2018 (4.1: no AV1) and counts packets where it should count frames.
Where timestamps are missing or repeat (most AVI files with B-frames or H.264, MPEG program streams), where a keyframe
is none, or one with frames shown before it (open GOPs), in transport streams and under edit lists it gives frames of
other numbers, or grey ones, without a word. So each file is compared with its index, which PyAV reads, and refused
where they disagree.

What it gives is what `CompressedVideo` gives with `colorspace="tagged"`: by the matrix that the file is tagged with,
else BT.601, 0 to 255 from limited or full range. It is so to one grey level for 4:2:0 of 8 bits and even size; chroma
of odd sizes, 10 bits or fields is interpolated otherwise, one to three levels off on average, more at coloured edges.
Damaged frames cannot be told from others: decord passes on whatever its decoder makes of them.
"""

import os
import platform
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from datamodules.bitstream import Frames, Gop, UnreadableVideoError, VideoIndex
from datamodules.bitstream.flow import FlowMethod
from datamodules.bitstream.frames import Colorspace, Reference, Stream

_REMEDY = "use `backend: pyav`, or re-encode it"
_TOLERANCE = 2e-3  # seconds; containers count in milliseconds or finer, decord in float32


def import_decord() -> Any:
    """The package, silent from now on.

    Raises:
        ModuleNotFoundError: it is not there, or not for this machine.
    """
    try:
        import decord
    except (ImportError, OSError) as error:
        raise ModuleNotFoundError(
            f"backend: 'decord' needs the package decord, which does not import here ({error}). It has wheels for "
            f"x86-64 Linux and Windows alone, this is {platform.machine()} {platform.system()}: `pip install decord` "
            "there, or `backend: pyav`"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


@dataclass(frozen=True)
class DecordFacts:
    """What decord believes of a file.

    Args:
        num_frames: their number; in truth that of packets.
        seconds: (num_frames,) when each is shown.
        keys: (K,) the packets at which it begins to decode.
    """

    num_frames: int
    seconds: np.ndarray
    keys: np.ndarray

    def obstacle(self, index: VideoIndex) -> str | None:
        """Why frames would come under other numbers than the index gives them; None where they would not."""
        if self.num_frames != index.num_frames:
            return f"it counts {self.num_frames} frames where there are {index.num_frames}"
        if not index.is_sliceable:
            return "its container splits or wraps frames, as transport streams do, where decord may miss its place"
        times = index.times[index.shown]
        if np.abs(self.seconds - (times - times[0])).max() > _TOLERANCE or (np.diff(times) <= 0).any():
            return "its frames have no timestamps, or repeated ones, or are cut by an edit list"
        if not _may_begin(index, self.keys):
            return "not every keyframe is a place to begin at, as in open GOPs"
        return None


def _may_begin(index: VideoIndex, keys: np.ndarray) -> bool:
    """Whether these coded pictures are intra-coded and nothing behind them is shown before them."""
    earliest = np.minimum.accumulate(index.places[::-1])[::-1]
    return len(keys) > 0 and all(
        index.types[key] == "I" and index.entries[key] and index.places[key] == earliest[key] == key
        for key in (0, *keys)
    )


class DecordVideo:
    """A video read through decord; what `ClipReader` needs of a `CompressedVideo`, for plain frames alone.

    It opens lazily, in the process that reads, and decodes in one thread.

    Args:
        path: the file.
        index: of the same file.
    """

    num_corrupt = 0  # it cannot tell
    rotation = 0  # it turns frames itself

    def __init__(self, path: str | os.PathLike[str], index: VideoIndex) -> None:
        self.path, self.index = os.fspath(path), index
        self._reader: Any = None

    @property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs."""
        return self.index.gops

    @property
    def num_frames(self) -> int:
        """Decodable frames."""
        return self.index.num_frames

    def read_positions(
        self,
        gop: int,
        positions: Sequence[int],
        *,
        streams: Collection[Stream],
        reference: Reference = "iframe",
        colorspace: Colorspace = "tagged",
        flow: FlowMethod | None = None,
    ) -> list[Frames]:
        """Plain frames at several positions of one GOP, upright; arguments as of `CompressedVideo.read_positions`.

        Raises:
            UnreadableVideoError: decord cannot read the file, or would give other frames.
            ValueError: another stream, or a colorspace that it does not know.
        """
        if set(streams) != {"rgb"} or colorspace != "tagged":
            raise ValueError(f"decord: expected stream 'rgb' in colorspace 'tagged', got {streams} in {colorspace!r}")
        start = self.gops[gop].start
        return [Frames(rgb=pixels) for pixels in self._read([start + position for position in positions])]

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "index": self.index, "_reader": None}

    def _read(self, numbers: list[int]) -> np.ndarray:
        """(N, H, W, 3) uint8, upright."""
        decord = import_decord()
        try:
            if self._reader is None:
                self._reader = self._open(decord)
            frames = self._reader.get_batch(numbers).asnumpy()
        except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError) as error:
            raise UnreadableVideoError(self.path, f"decord cannot read it ({_gist(error)})", _REMEDY) from None
        if frames.shape[1:3] != self.index.upright_size:
            expected, came = self.index.upright_size, frames.shape[1:3]
            raise UnreadableVideoError(self.path, f"decord gives frames of {came}, expected {expected}", _REMEDY)
        return frames

    def _open(self, decord: Any) -> Any:
        reader = decord.VideoReader(os.path.abspath(self.path), ctx=decord.cpu(0), num_threads=1)
        seconds = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0]
        obstacle = DecordFacts(len(reader), seconds, np.asarray(reader.get_key_indices())).obstacle(self.index)
        if obstacle is not None:
            raise UnreadableVideoError(self.path, f"decord would give wrong frames: {obstacle}", _REMEDY)
        return reader


def _gist(error: BaseException) -> str:
    """The first line of a message, without the time and place in decord's source that stand before it."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r".*\.cc:\d+: ", "", first)
