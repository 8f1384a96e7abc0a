"""Keeps the indices of videos, in memory and on disk, so that a file is demuxed once and not once per sample."""

import hashlib
import json
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from datamodules.bitstream import VideoIndex, build_index
from datamodules.whole_file import written_whole

_VERSION = 2
_ARRAYS = ("offsets", "sizes", "times", "shown", "entries")
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)

Stamp = tuple[int, int]


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
        self._memory[path] = known
        self._memory.move_to_end(path)
        if len(self._memory) > self.capacity:
            self._memory.popitem(last=False)
        return known[1]

    def file_of(self, path: str) -> Path | None:
        """Where the index of `path` is stored."""
        if self.directory is None:
            return None
        key = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return self.directory / key[:2] / f"{key[2:34]}.npz"

    def _load_or_build(self, path: str, stamp: Stamp | None) -> VideoIndex:
        file = self.file_of(path)
        if file is None or stamp is None:
            return build_index(path)
        with suppress(*_UNUSABLE):
            return load_index(file, path, stamp)
        index = build_index(path)
        try:
            save_index(index, file, stamp)
        except OSError:  # a cache that cannot be written costs time, not the run
            if self.must_store:
                raise
        return index


def file_stamp(path: str) -> Stamp | None:
    """(size in bytes, time of change in ns) of a file; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def save_index(index: VideoIndex, file: Path, stamp: Stamp) -> None:
    """Writes an index, whole or not at all, as numpy arrays and JSON."""
    values: dict[str, Any] = {field.name: getattr(index, field.name) for field in fields(index)}
    arrays = {name: values.pop(name) for name in _ARRAYS}
    values["extradata"] = values["extradata"].hex()
    values["path"] = os.path.abspath(index.path)
    text = json.dumps({"version": _VERSION, "stamp": stamp, "index": values})
    with written_whole(file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, meta=np.frombuffer(text.encode(), np.uint8), **arrays)


def load_index(file: Path, path: str, stamp: Stamp) -> VideoIndex:
    """Reads what `save_index` wrote for the file `path` when its stamp was `stamp`.

    Raises:
        ValueError: it was written for another file, another state of it, or by another version.
        OSError, KeyError, TypeError, EOFError, BadZipFile: it is missing or torn.
    """
    with np.load(file, allow_pickle=False) as stored:
        meta = json.loads(stored["meta"].tobytes())
        arrays = {name: stored[name] for name in _ARRAYS}
    values = meta["index"]
    expected = (_VERSION, list(stamp), os.path.abspath(path))
    if (meta["version"], meta["stamp"], values["path"]) != expected:
        raise ValueError(f"{file}: expected an index of {expected}, got another's")
    values |= {
        "path": path,
        "extradata": bytes.fromhex(values["extradata"]),
    }
    return VideoIndex(**values, **arrays)
