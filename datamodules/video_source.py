"""Opens videos for reading: their indices from a cache, and a re-encoded stand-in where the original will not do."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, VideoIndex, build_index
from datamodules.bitstream.encode import reencode
from datamodules.bitstream.reader import OnCorrupt
from datamodules.index_cache import IndexCache, file_stamp
from datamodules.whole_file import written_whole

_GOP_SIZE = 12
_RECIPE = f"mpeg4 gop {_GOP_SIZE}, 2"  # 2: with the frame that a packed bitstream ends on
_MAX_STEM = 190  # bytes of a name, of which file systems take 255 with all that is added


def default_reencode_dir() -> str:
    """The user's cache folder for re-encoded videos: `$XDG_CACHE_HOME/streamkd/reencoded`, or below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "streamkd", "reencoded")


@dataclass(frozen=True)
class ReencodeCache:
    """Stand-ins encoded as MPEG-4 with I- and P-frames; shared by any number of processes and runs.

    A stand-in is found again by the original's path, size and time of change, and by the recipe. None is there that
    lacks a frame of the original.

    Args:
        directory: where they are kept.
        size: (width, height) in pixels of every stand-in, both even; a video of another size needs one. None: the
            original's.
    """

    directory: str
    size: tuple[int, int] | None = None

    def refusal(self, index: VideoIndex) -> str | None:
        """Why a video needs a stand-in whatever is read from it; None where it does not."""
        height, width = index.upright_size
        if self.size is None or (width, height) == self.size:
            return None
        return f"it is {width}x{height}, expected {self.size[0]}x{self.size[1]} (config key: reencode_size)"

    def file_of(self, path: str) -> Path:
        """Where the stand-in for `path` is kept."""
        key = repr((os.path.abspath(path), file_stamp(path), self.recipe)).encode()
        stem = os.fsdecode(os.fsencode(Path(path).stem)[:_MAX_STEM])
        return Path(self.directory) / f"{stem}-{hashlib.sha256(key).hexdigest()[:16]}.mp4"

    def make(self, original: VideoIndex) -> VideoIndex:
        """Encodes the stand-in for a video; returns its index.

        Raises:
            UnreadableVideoError: it cannot be decoded, or not all of its frames come out.
            OSError: the stand-in cannot be written.
        """
        path, file = original.path, self.file_of(original.path)
        with written_whole(file) as unchecked:
            done = reencode(path, unchecked, codec="mpeg4", gop_size=_GOP_SIZE, size=self.size, synced=False)
            _check_count(path, "decoded", done.num_frames, original.num_frames - done.num_cut)
            index = build_index(unchecked)
            _check_count(path, "re-encoded", index.num_frames, done.num_frames)
        return replace(index, path=str(file))

    @property
    def recipe(self) -> str:
        """How stand-ins are made."""
        size = "" if self.size is None else f" {self.size[0]}x{self.size[1]}"
        return f"{_RECIPE}{size}"


def _check_count(path: str, what: str, count: int, expected: int) -> None:
    if count < expected:
        raise UnreadableVideoError(path, f"{what}, it has {count} of its {expected} frames", "leave it out of the list")


@dataclass(frozen=True)
class VideoSource:
    """Opens a video so that given streams can be read from it.

    Args:
        streams: the streams.
        indices: where indices come from.
        stand_ins: re-encodes what has to be; None: such a video is refused.
        on_corrupt: see `CompressedVideo`.
    """

    streams: tuple[str, ...]
    indices: IndexCache
    stand_ins: ReencodeCache | None = None
    on_corrupt: OnCorrupt = "raise"

    @property
    def recipe(self) -> str:
        """What is read of a video depends on besides the video."""
        return repr((self.streams, self.on_corrupt, self.stand_ins and self.stand_ins.recipe))

    def open(self, path: str) -> CompressedVideo:
        """The video at `path`, or its stand-in; close it, or use it in a `with` block.

        Raises:
            UnreadableVideoError: see `index`.
        """
        index = self.index(path)
        return CompressedVideo(index.path, index, on_corrupt=self.on_corrupt)

    def index(self, path: str) -> VideoIndex:
        """The index of the video at `path`, or of its stand-in, which is made where there is none or a torn one.

        Raises:
            UnreadableVideoError: there is no such video, or it has to be re-encoded and that is not asked for
                or does not help (it has one frame alone).
        """
        index = self.indices.get(path)
        reason = self._refusal(index)
        if reason is None:
            return index
        if self.stand_ins is None:
            raise UnreadableVideoError(path, reason, "re-encode it, or let reencode_dir in the config do it")
        index = self._stand_in(index, self.stand_ins)
        reason = self._refusal(index)
        if reason is not None:
            raise UnreadableVideoError(path, f"re-encoded, {reason}", "leave it out of the list")
        return index

    def _refusal(self, index: VideoIndex) -> str | None:
        reason = index.refusal(self.streams)
        return self.stand_ins.refusal(index) if reason is None and self.stand_ins is not None else reason

    def _stand_in(self, original: VideoIndex, stand_ins: ReencodeCache) -> VideoIndex:
        file = str(stand_ins.file_of(original.path))
        with suppress(UnreadableVideoError):
            return self.indices.get(file)
        index = stand_ins.make(original)
        self.indices.put(index)
        return index
