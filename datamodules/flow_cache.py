"""Keeps optical flow on disk, one file per video, so that it is computed once and not once per sample.

A file is a zip archive of `meta.json` and one deflated member per P-frame, `<gop>/<position>`: (H, W, 2) float16,
little-endian, pixels, see `Frames.flow`. Nothing in it is executed, and a checksum guards every member.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from typing import Any, Literal, get_args
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np

from datamodules.bitstream import CompressedVideo, UnreadableVideoError
from datamodules.bitstream.flow import FlowMethod
from datamodules.bitstream.frames import Reference, Stream
from datamodules.index_cache import file_stamp
from datamodules.whole_file import written_whole

Missing = Literal["rebuild", "refuse"]
Place = tuple[int, int]  # GOP, position in it

_STREAMS: tuple[Stream, ...] = ("flow",)
_VERSION = 1
_META = "meta.json"
_TYPE = np.dtype("<f2")
_LEVEL = 1  # of zlib; others take 5 times as long for a quarter less
_RUN_BYTES = 1 << 28
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, StructError, zlib.error)


@dataclass(frozen=True)
class FlowSettings(FlowMethod):
    """How the stream `flow` is computed, and where it is kept.

    A cache changes nothing that a network sees. `streamkd flow` fills it.

    Args:
        cache: a folder, which may serve any settings and any number of processes; None: flow is computed whenever it
            is read, for the frames that are read.
        missing: what to do about a video without flow in the cache, or with a torn file there, or one of another state
            of the video: "rebuild": compute all of the video's flow and keep it; "refuse": count the video as
            unreadable.
    """

    cache: str | None = None
    missing: Missing = "rebuild"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.missing not in get_args(Missing):
            allowed = ", ".join(get_args(Missing))
            raise ValueError(f"flow.missing: expected one of {allowed}, got {self.missing!r}")
        if self.cache == "None":  # what jsonargparse makes of `--data.flow.cache null`
            raise ValueError("flow.cache: expected a folder, got None; for no cache say `--data.flow '{cache: null}'`")

    @property
    def may_compute(self) -> bool:
        """Whether flow may have to be computed while it is read."""
        return self.cache is None or self.missing == "rebuild"


@dataclass(frozen=True)
class FlowCache:
    """The flow of videos on disk. Each way to compute it has a folder of its own.

    Args:
        directory: where.
        method: how it is computed.
        reference: the frame that it comes from.
    """

    directory: str
    method: FlowMethod
    reference: Reference

    @property
    def recipe(self) -> str:
        """What is kept, e.g. "dis-medium-previous"."""
        return f"{self.method.name}-{self.reference}"

    def file_of(self, path: str) -> Path:
        """Where the flow of the video at `path` is kept."""
        key = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return Path(self.directory) / self.recipe / key[:2] / f"{key[2:34]}.zip"

    def load(self, path: str, video: CompressedVideo, places: Collection[Place]) -> dict[Place, np.ndarray]:
        """The flow of a video at some places.

        Args:
            path: the video.
            video: the same, or its stand-in.
            places: (gop, position >= 1) each.

        Returns:
            flow: by place, (H, W, 2) float16.

        Raises:
            UnusableFlowError: there is no file, or it is torn, or of another video, of another state of it or of
                another recipe.
        """
        file, size = self.file_of(path), (video.height, video.width, 2)
        try:
            with ZipFile(file) as archive:
                self._check(json.loads(archive.read(_META)), path, video)
                members = {place: archive.read(_member(place)) for place in places}
                return {place: np.frombuffer(data, _TYPE).reshape(size) for place, data in members.items()}
        except FileNotFoundError:
            raise UnusableFlowError(f"its optical flow ({self.recipe}) is not in {self.directory}") from None
        except _UNUSABLE as error:
            raise UnusableFlowError(f"its optical flow in {file} cannot be used ({error})") from error

    def has(self, path: str, video: CompressedVideo) -> bool:
        """Whether `load` would find all of a video's flow; members are not read."""
        try:
            with ZipFile(self.file_of(path)) as archive:
                self._check(json.loads(archive.read(_META)), path, video)
                return set(archive.namelist()) == {_META, *map(_member, _places(video))}
        except _UNUSABLE:
            return False

    def fill(self, path: str, video: CompressedVideo) -> None:
        """Computes all of a video's flow and keeps it, whole or not at all.

        Args:
            path: the video.
            video: the same, or its stand-in.

        Raises:
            UnreadableVideoError: it cannot be decoded.
            OSError: the file cannot be written.
        """
        reader = CompressedVideo(video.path, video.index, on_corrupt=video.on_corrupt)
        with (
            written_whole(self.file_of(path)) as part,
            ZipFile(part, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive,
            reader,
        ):
            for place, flow in self._computed(reader):
                archive.writestr(_member(place), flow.astype(_TYPE, copy=False).tobytes())
            archive.writestr(_META, json.dumps(self._meta(path, video) | {"num_corrupt": reader.num_corrupt}))

    def _computed(self, video: CompressedVideo) -> Iterator[tuple[Place, np.ndarray]]:
        """All flow of a video, in runs that fit into memory; a long GOP of large frames is decoded repeatedly."""
        run = max(1, _RUN_BYTES // (video.height * video.width * 2 * _TYPE.itemsize))
        for number, gop in enumerate(video.gops):
            for start in range(1, gop.length, run):
                positions = range(start, min(start + run, gop.length))
                read = video.read_positions(
                    number, positions, streams=_STREAMS, reference=self.reference, flow=self.method
                )
                for position, frames in zip(positions, read, strict=True):
                    assert frames.flow is not None
                    yield (number, position), frames.flow

    def _meta(self, path: str, video: CompressedVideo) -> dict[str, Any]:
        """What a file has to say of itself."""
        return {
            "version": _VERSION,
            "video": os.path.abspath(path),
            "stamp": list(file_stamp(path) or ()),
            "recipe": self.recipe,
            "size": [video.height, video.width],
            "gops": [gop.length for gop in video.gops],
        }

    def _check(self, found: dict[str, Any], path: str, video: CompressedVideo) -> None:
        for key, expected in self._meta(path, video).items():
            if found[key] != expected:
                raise ValueError(f"it is of another {key}")
        if found["num_corrupt"] and video.on_corrupt == "raise":
            raise ValueError(f"{found['num_corrupt']} damaged frames were passed over")


class UnusableFlowError(Exception):
    """What is wrong with a video's flow in the cache."""


def load_or_fill(
    settings: FlowSettings, reference: Reference, path: str, video: CompressedVideo, places: Collection[Place]
) -> dict[Place, np.ndarray] | None:
    """Flow from the cache as `settings` say, see `FlowCache.load`; None where they name no cache.

    Raises:
        UnreadableVideoError: it is not there and to be refused; or the video cannot be decoded.
        OSError: it cannot be kept.
    """
    if settings.cache is None:
        return None
    cache = FlowCache(settings.cache, settings, reference)
    try:
        return cache.load(path, video, places)
    except UnusableFlowError as error:
        if settings.missing == "refuse":
            remedy = "fill the cache by `streamkd flow`, or set flow.missing to rebuild"
            raise UnreadableVideoError(path, str(error), remedy) from error
    cache.fill(path, video)
    return cache.load(path, video, places)


def _places(video: CompressedVideo) -> Iterator[Place]:
    return ((number, position) for number, gop in enumerate(video.gops) for position in range(1, gop.length))


def _member(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
