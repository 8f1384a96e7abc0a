"""Records that the processes of a loader leave for each other, in a file that has no name and ends with them."""

import fcntl
import io
import os
import struct
import tempfile
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

_HEADER = struct.Struct("<4sI16s")  # mark, bytes that follow, key
_MARK = b"SKRC"
_MAX_BYTES = 2**28


class SharedRecords:
    """Bytes by key, that any process adds and all find: those that were forked or started with it.

    A record is appended in one write, which the kernel does not mix with others'. Who reads checks that it is whole.

    Args:
        max_bytes: after which no more are added.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the last who has it)
        fcntl.fcntl(self._file, fcntl.F_SETFL, fcntl.fcntl(self._file, fcntl.F_GETFL) | os.O_APPEND)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._read_to = 0

    def get(self, key: bytes) -> bytes | None:
        """The latest record under a key of 16 bytes that was seen; None where there is none."""
        if key not in self._places:
            self._read_on()
        if key not in self._places:
            return None
        size, place = self._places[key]
        return os.pread(self._file.fileno(), size, place)

    def add(self, key: bytes, record: bytes) -> None:
        """Leaves a record under a key of 16 bytes.

        Raises:
            OSError: the disk is full.
        """
        if os.fstat(self._file.fileno()).st_size < self.max_bytes:
            os.write(self._file.fileno(), _HEADER.pack(_MARK, len(record), key) + record)
            self._places.pop(key, None)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is being started, which gets the file, too; no other can have it."""
        if get_spawning_popen() is None:
            raise TypeError("records are shared with processes that are being started, and cannot be kept")
        return {**vars(self), "_file": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _file=io.FileIO(state["_file"].detach(), "r+"))

    def _read_on(self) -> None:
        """Notes where the records are that others have added since."""
        while len(header := os.pread(self._file.fileno(), _HEADER.size, self._read_to)) == _HEADER.size:
            mark, size, key = _HEADER.unpack(header)
            if mark != _MARK:  # behind one that the disk had no room for, nothing is found any more
                return
            self._places[key] = (size, self._read_to + _HEADER.size)
            self._read_to += _HEADER.size + size
