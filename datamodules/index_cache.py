"""Keeps the indices of videos, in memory and on disk, so that a file is demuxed once and not once per sample."""

import hashlib
import os
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from datamodules.bitstream import VideoIndex, build_index
from datamodules.index_record import Stamp, decode_index, encode_index
from datamodules.shared_records import SharedRecords
from datamodules.whole_file import written_whole


class IndexCache:
    """Gives the index of a video; builds it where it is not at hand, or where the file has changed since.

    Args:
        directory: where indices are stored between runs; None: in memory alone. Files there are replaced whole, and
            torn or stale ones are built again, so that any number of processes may share it.
        capacity: number of indices kept in memory; the one not asked for the longest goes first.
        must_store: whether a cache that cannot be written is an error.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        capacity: int = 10_000,
        must_store: bool = False,
    ) -> None:
        self.directory = None if directory is None else Path(directory)
        self.capacity, self.must_store = capacity, must_store
        self._memory: OrderedDict[str, tuple[Stamp, VideoIndex]] = OrderedDict()
        self._shared: SharedRecords | None = None

    def share(self) -> None:
        """Lets this process and those that it starts from now on use each other's indices, directory or not."""
        if self.directory is None and self._shared is None:
            with suppress(OSError):  # no room for temporary files: each process keeps its own
                self._shared = SharedRecords()

    def get(self, path: str) -> VideoIndex:
        """The index of the video at `path`.

        Raises:
            UnreadableVideoError: see `build_index`.
            OSError: the index cannot be stored, with `must_store`.
        """
        stamp = file_stamp(path)
        known = self._memory.get(path)
        if stamp is None or known is None or known[0] != stamp:
            known = (stamp or (0, 0), self._load_or_build(path, stamp))
        self._remember(*known)
        return known[1]

    def put(self, index: VideoIndex) -> None:
        """Keeps the index of a video that is there, as `get` would.

        Raises:
            OSError: it cannot be stored, with `must_store`.
        """
        stamp = file_stamp(index.path)
        if stamp is not None:
            self._store(index, stamp)
            self._remember(stamp, index)

    def file_of(self, path: str) -> Path | None:
        """Where the index of `path` is stored."""
        if self.directory is None:
            return None
        key = _key_of(path).hex()
        return self.directory / key[:2] / f"{key[2:]}.index"

    def __getstate__(self) -> dict[str, Any]:
        """All of it for a process that is being started; as part of what is handed over later, no indices."""
        return vars(self) | ({} if get_spawning_popen() else {"_shared": None, "_memory": OrderedDict()})

    def _load_or_build(self, path: str, stamp: Stamp | None) -> VideoIndex:
        if stamp is None:
            return build_index(path)
        with suppress(OSError, ValueError):
            record = self._stored(path)
            if record is not None:
                return decode_index(record, path, stamp)
        index = build_index(path)
        self._store(index, stamp)
        return index

    def _remember(self, stamp: Stamp, index: VideoIndex) -> None:
        self._memory[index.path] = stamp, index
        self._memory.move_to_end(index.path)
        if len(self._memory) > self.capacity:
            self._memory.popitem(last=False)

    def _stored(self, path: str) -> bytes | None:
        file = self.file_of(path)
        if file is not None:
            return file.read_bytes()
        return None if self._shared is None else self._shared.get(_key_of(path))

    def _store(self, index: VideoIndex, stamp: Stamp) -> None:
        file = self.file_of(index.path)
        try:
            if file is not None:
                with written_whole(file, synced=False) as temporary:
                    temporary.write_bytes(encode_index(index, stamp))
            elif self._shared is not None:
                self._shared.add(_key_of(index.path), encode_index(index, stamp))
        except OSError:  # a cache that cannot be written costs time, not the run
            if self.must_store:
                raise


def file_stamp(path: str) -> Stamp | None:
    """(size in bytes, time of change in ns) of a file; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _key_of(path: str) -> bytes:
    """16 bytes."""
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).digest()[:16]
