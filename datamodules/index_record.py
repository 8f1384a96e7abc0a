"""An index of a video as bytes, with a checksum: what is torn, stale or another's is told from what is right."""

import json
import os
import struct
import zlib
from dataclasses import fields
from typing import Any

import numpy as np

from datamodules.bitstream import VideoIndex

Stamp = tuple[int, int]

_VERSION = 3
_CHECKSUM = struct.Struct("<4sI")  # of all that follows
_LENGTH = struct.Struct("<I")  # of the JSON that follows; arrays come behind it
_MARK = b"SKIX"
_ARRAYS: dict[str, type] = {
    "offsets": np.int64,
    "sizes": np.int64,
    "times": np.float64,
    "shown": np.int64,
    "entries": np.bool_,
}


def encode_index(index: VideoIndex, stamp: Stamp) -> bytes:
    """The index of a file whose stamp is `stamp` (see `file_stamp`): JSON, and arrays in the machine's byte order."""
    values: dict[str, Any] = {field.name: getattr(index, field.name) for field in fields(index)}
    arrays: dict[str, np.ndarray] = {
        name: np.ascontiguousarray(values.pop(name), dtype) for name, dtype in _ARRAYS.items()
    }
    values["extradata"] = values["extradata"].hex()
    values["path"] = os.path.abspath(index.path)
    lengths = {name: len(array) for name, array in arrays.items()}
    text = json.dumps({"version": _VERSION, "stamp": stamp, "lengths": lengths, "index": values}).encode()
    text += b" " * (-(_CHECKSUM.size + _LENGTH.size + len(text)) % 8)
    body = b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays.values())])
    return _CHECKSUM.pack(_MARK, zlib.crc32(body)) + body


def decode_index(record: bytes, path: str, stamp: Stamp) -> VideoIndex:
    """What `encode_index` made of the index of the file `path` when its stamp was `stamp`.

    Raises:
        ValueError: it is torn, or of another file, another state of it or another version.
    """
    try:
        mark, checksum = _CHECKSUM.unpack_from(record)
        (length,) = _LENGTH.unpack_from(record, _CHECKSUM.size)
    except struct.error as error:
        raise ValueError(f"{path}: expected an index, got {len(record)} bytes") from error
    if mark != _MARK or checksum != zlib.crc32(memoryview(record)[_CHECKSUM.size :]):
        raise ValueError(f"{path}: expected a whole index, got a torn one")
    place = _CHECKSUM.size + _LENGTH.size
    meta = json.loads(record[place : place + length])
    values, expected = meta["index"], (_VERSION, list(stamp), os.path.abspath(path))
    if (meta["version"], meta["stamp"], values["path"]) != expected:
        raise ValueError(f"{path}: expected an index of {expected}, got another's")
    values |= {"path": path, "extradata": bytes.fromhex(values["extradata"])}
    place += length
    for name, dtype in _ARRAYS.items():
        values[name] = np.frombuffer(record, dtype, meta["lengths"][name], place)
        place += values[name].nbytes
    return VideoIndex(**values)
