"""Opens videos for reading: their indices from a cache, and a re-encoded stand-in where the original will not do."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from datamodules.bitstream import CompressedVideo, UnreadableVideoError
from datamodules.bitstream.encode import reencode
from datamodules.bitstream.reader import OnCorrupt
from datamodules.index_cache import IndexCache, file_stamp

_GOP_SIZE = 12
_MAX_STEM = 200  # bytes of a name, of which file systems take 255 with all that is added


def default_reencode_dir() -> str:
    """The user's cache folder for re-encoded videos: `$XDG_CACHE_HOME/streamkd/reencoded`, or below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "streamkd", "reencoded")


@dataclass(frozen=True)
class ReencodeCache:
    """Stand-ins encoded as MPEG-4 with I- and P-frames; shared by any number of processes and runs.

    A stand-in is found again by the original's path, size and time of change, and by the recipe.

    Args:
        directory: where they are kept.
    """

    directory: str

    def get(self, path: str) -> str:
        """The stand-in for `path`, encoded now where there is none yet.

        Raises:
            UnreadableVideoError: the original cannot be decoded.
        """
        target = self.file_of(path)
        if not target.is_file():
            reencode(path, target, codec="mpeg4", gop_size=_GOP_SIZE)
        return str(target)

    def file_of(self, path: str) -> Path:
        """Where the stand-in for `path` is kept."""
        recipe = f"mpeg4 gop {_GOP_SIZE}"
        key = repr((os.path.abspath(path), file_stamp(path), recipe)).encode()
        stem = os.fsdecode(os.fsencode(Path(path).stem)[:_MAX_STEM])
        return Path(self.directory) / f"{stem}-{hashlib.sha256(key).hexdigest()[:16]}.mp4"


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

    def open(self, path: str) -> CompressedVideo:
        """The video at `path`, or its stand-in; close it, or use it in a `with` block.

        Raises:
            UnreadableVideoError: there is no such video, or it has to be re-encoded and that is not asked for
                or does not help (it has one frame alone).
        """
        if os.path.isdir(path):
            raise UnreadableVideoError(path, "it is a folder without video files", "name files, or other folders")
        index = self.indices.get(path)
        reason = index.refusal(self.streams)
        if reason is None:
            return CompressedVideo(path, index, on_corrupt=self.on_corrupt)
        if self.stand_ins is None:
            raise UnreadableVideoError(path, reason, "re-encode it, or let reencode_dir in the config do it")
        stand_in = self.stand_ins.get(path)
        index = self.indices.get(stand_in)
        reason = index.refusal(self.streams)
        if reason is not None:
            raise UnreadableVideoError(path, f"re-encoded, {reason}", "leave it out of the list")
        return CompressedVideo(stand_in, index, on_corrupt=self.on_corrupt)
