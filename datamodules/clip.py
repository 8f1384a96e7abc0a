"""Typed samples and batches: what a loader hands over, and what every network is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from datamodules.failure import Failure

UNKNOWN_LABEL = -1
JOINT = "+"  # between streams that go to one network channel by channel: "mv+residual"


@cache
def parts_of(*streams: str) -> tuple[str, ...]:
    """The streams that others are joined of, each once: "mv+residual" of two, "mv" of itself."""
    return tuple(dict.fromkeys(part for stream in streams for part in stream.split(JOINT)))


@dataclass
class ClipSample:
    """One video as a worker reads it, with V views of T frames each.

    Args:
        streams: per stream (V, T, C, H, W) uint8, "about 128" for signed ones (see `transforms.py`).
        label: () int64, or (num_classes,) float32 multi-hot; -1 where unknown.
        index: position in the split's list of records.
        path: the file that was read.
        seconds: time spent reading.
        corrupt_frames: damaged frames for which earlier ones stand in.
        substituted: whether it stands in for another video that could not be read (training only).
        failures: the unreadable videos met on the way.
    """

    streams: dict[str, Tensor]
    label: Tensor
    index: int
    path: str
    seconds: float
    corrupt_frames: int = 0
    substituted: bool = False
    failures: tuple[Failure, ...] = ()


@dataclass(repr=False)
class ClipBatch:
    """A batch of B videos with V views each; the views of one video are adjacent.

    An evaluation batch of which no video could be read has B = 0 and nothing but `failures`. Not frozen, since
    device transfer refuses frozen dataclasses.

    Args:
        streams: per stream (B * V, T, C, H, W), uint8 from the workers, float once normalised.
        labels: (B,) int64, or (B, num_classes) float32 multi-hot; -1 where unknown.
        indices: (B,) int64, positions in the split's list of records.
        paths: B files.
        seconds: (B,) float64, time spent reading each.
        corrupt_frames: (B,) int64, damaged frames of each for which earlier ones stand in.
        substituted: (B,) bool, training samples that stand in for an unreadable video.
        failures: evaluation videos left out of this batch; training ones replaced.
        num_views: V.
        is_features: whether streams are not clips but what frozen networks made of them, under the names of their
            outputs (`<stream>/<exit>`), whatever types they have.

    Raises:
        ValueError: shapes that do not fit together.
    """

    streams: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    paths: list[str]
    seconds: Tensor
    corrupt_frames: Tensor
    substituted: Tensor
    failures: list[Failure] = field(default_factory=list)
    num_views: int = 1
    is_features: bool = False

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("ClipBatch.streams: expected at least one stream, got none")
        if self.num_views < 1:
            raise ValueError(f"ClipBatch.num_views: expected at least 1, got {self.num_views}")
        for name, stream in self.streams.items():
            self._check_stream(name, stream)
        if self.labels.ndim not in (1, 2):
            raise ValueError(f"ClipBatch.labels: expected (B,) or (B, num_classes), got {_shape(self.labels)}")
        for name in ("indices", "seconds", "corrupt_frames", "substituted"):
            self._check_vector(name, getattr(self, name))
        if len(self.paths) != len(self):
            raise ValueError(f"ClipBatch.paths: expected {len(self)} (as labels), got {len(self.paths)}")

    @classmethod
    def from_samples(cls, samples: Sequence[ClipSample], failures: Sequence[Failure] = ()) -> ClipBatch:
        """Stacks samples into one batch.

        Args:
            samples: at least one, with the same streams and shapes.
            failures: videos left out, listed beside those of the samples.
        """
        return cls(
            streams={name: torch.cat([s.streams[name] for s in samples]) for name in samples[0].streams},
            labels=torch.stack([s.label for s in samples]),
            indices=torch.tensor([s.index for s in samples], dtype=torch.int64),
            paths=[s.path for s in samples],
            seconds=torch.tensor([s.seconds for s in samples], dtype=torch.float64),
            corrupt_frames=torch.tensor([s.corrupt_frames for s in samples], dtype=torch.int64),
            substituted=torch.tensor([s.substituted for s in samples], dtype=torch.bool),
            failures=[*failures, *(f for s in samples for f in s.failures)],
            num_views=len(next(iter(samples[0].streams.values()))),
        )

    @classmethod
    def empty(cls, shapes: dict[str, tuple[int, ...]], failures: Sequence[Failure], num_views: int = 1) -> ClipBatch:
        """A batch of no videos.

        Args:
            shapes: per stream (T, C, H, W).
            failures: the videos left out.
            num_views: V.
        """
        return cls(
            streams={name: torch.empty((0, *shape), dtype=torch.uint8) for name, shape in shapes.items()},
            labels=torch.empty(0, dtype=torch.int64),
            indices=torch.empty(0, dtype=torch.int64),
            paths=[],
            seconds=torch.empty(0, dtype=torch.float64),
            corrupt_frames=torch.empty(0, dtype=torch.int64),
            substituted=torch.empty(0, dtype=torch.bool),
            failures=list(failures),
            num_views=num_views,
        )

    def __len__(self) -> int:
        """B, the number of videos."""
        return len(self.labels)

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> ClipBatch:
        """The batch on another device; by default asynchronous towards an accelerator only."""
        return self._map(_mover(torch.device(device), non_blocking))

    def pin_memory(self) -> ClipBatch:
        """The batch in page-locked memory (called by the DataLoader)."""
        return self._map(Tensor.pin_memory)

    def __repr__(self) -> str:
        streams = ", ".join(f"{name}: {_describe(stream)}" for name, stream in self.streams.items())
        return (
            f"ClipBatch({len(self)} videos x {self.num_views} views, {streams}, "
            f"labels: {_describe(self.labels)}, {int(self.substituted.sum())} substituted, "
            f"{len(self.failures)} failures)"
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        return dataclasses.replace(
            self,
            streams={name: function(stream) for name, stream in self.streams.items()},
            labels=function(self.labels),
            indices=function(self.indices),
            seconds=function(self.seconds),
            corrupt_frames=function(self.corrupt_frames),
            substituted=function(self.substituted),
        )

    def _check_stream(self, name: str, stream: Tensor) -> None:
        if stream.ndim != 5 or len(stream) != len(self) * self.num_views:
            raise ValueError(
                f"ClipBatch.streams[{name!r}]: expected (B * V, T, C, H, W) with B = {len(self)} "
                f"(as labels) and V = {self.num_views}, got {_shape(stream)}"
            )

    def _check_vector(self, name: str, vector: Tensor) -> None:
        if vector.shape != (len(self),):
            raise ValueError(f"ClipBatch.{name}: expected ({len(self)},) (as labels), got {_shape(vector)}")


class StreamSource(Protocol):
    """Reads one video stream by stream, and decodes no more than the streams that were asked for need.

    Attributes:
        decode_seconds: time spent so far on file, packets and pixels.
        cut_seconds: time spent so far on making views of them.
        corrupt_frames: damaged frames met so far for which earlier ones stand in.
    """

    decode_seconds: float
    cut_seconds: float
    corrupt_frames: int

    def read(self, stream: str) -> Tensor | Failure:
        """What `LazyClipBatch.normalise` makes a stream of, (V, T, C, H, W) uint8; or why it cannot be read."""

    def read_alone(self, stream: str) -> Tensor | Failure:
        """As `read`, but closes the file behind it and keeps nothing for other streams: what is left is picklable."""

    def close(self) -> None:
        """Closes the file and drops what was decoded."""


@dataclass
class LazyClip:
    """One video that is decoded as far as it is asked to; picklable until it is read.

    Args:
        source: reads it.
        label: as of `ClipSample`.
        index: position in the split's list of records.
        path: the file.
        plan_seconds: time spent on finding out what to read.
        failure: why it cannot be read, once that is known.
    """

    source: StreamSource
    label: Tensor
    index: int
    path: str
    plan_seconds: float = 0.0
    failure: Failure | None = None

    @property
    def read_seconds(self) -> float:
        """Time spent so far on reading it, without the plan."""
        return self.source.decode_seconds + self.source.cut_seconds

    def read(self, stream: str) -> Tensor | None:
        """As `StreamSource.read`; None, and `failure` is set, where a stream cannot be read."""
        views = self.source.read(stream)
        if isinstance(views, Failure):
            self.failure = views
            self.source.close()
            return None
        return views


@dataclass(repr=False)
class LazyClipBatch:
    """A batch of videos that are read stream by stream where they are used, for networks that may not need them all.

    Labels and the like are those of the videos that could be read so far, as in a `ClipBatch`.

    Args:
        clips: B videos.
        shapes: per stream (T, C, H, W), as networks see it.
        normalise: (stream, (N, T, C, H, W) uint8) -> float, what the network sees.
        failures: evaluation videos left out of this batch.
        num_views: V.
        device: where streams go.
        ahead: streams that have been read of all clips, (B * V, T, C, H, W) uint8 on `device`, until they are loaded.
        on_read: called by `finish`.
    """

    clips: list[LazyClip]
    shapes: dict[str, tuple[int, ...]]
    normalise: Callable[[str, Tensor], Tensor]
    failures: list[Failure] = field(default_factory=list)
    num_views: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ahead: dict[str, Tensor] = field(default_factory=dict)
    on_read: Callable[[LazyClipBatch], None] | None = None

    def __len__(self) -> int:
        """B, the number of videos."""
        return len(self.clips)

    @property
    def labels(self) -> Tensor:
        """(B,) int64, or (B, num_classes) float32 multi-hot; -1 where unknown."""
        labels = [clip.label for clip in self.clips]
        return (torch.stack(labels) if labels else torch.empty(0, dtype=torch.int64)).to(self.device)

    @property
    def indices(self) -> Tensor:
        """(B,) int64, positions in the split's list of records."""
        return torch.tensor([clip.index for clip in self.clips], dtype=torch.int64)

    @property
    def paths(self) -> list[str]:
        """B files."""
        return [clip.path for clip in self.clips]

    @property
    def seconds(self) -> Tensor:
        """(B,) float64, time spent so far on reading each."""
        return torch.tensor([clip.plan_seconds + clip.read_seconds for clip in self.clips], dtype=torch.float64)

    @property
    def corrupt_frames(self) -> Tensor:
        """(B,) int64, damaged frames met so far of each for which earlier ones stand in."""
        return torch.tensor([clip.source.corrupt_frames for clip in self.clips], dtype=torch.int64)

    def load(self, stream: str, chosen: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Reads a stream of some of the videos.

        Args:
            stream: its name.
            chosen: numbers of videos, 0 to B - 1.

        Returns:
            clips: (b * V, T, C, H, W) float on `device`, normalised, of those that can be read.
            read: their numbers.
        """
        if stream in self.ahead:
            return self.normalise(stream, self._take_ahead(stream, chosen)), list(chosen)
        views = {number: self.clips[number].read(stream) for number in chosen}
        found = {number: view for number, view in views.items() if view is not None}
        clips = torch.cat(list(found.values())) if found else torch.empty(0, *self.shapes[stream], dtype=torch.uint8)
        return self.normalise(stream, clips.to(self.device)), list(found)

    def finish(self) -> None:
        """Closes all files, and lists the videos that could not be read among the failures instead of the clips."""
        for clip in self.clips:
            clip.source.close()
        self.failures += [clip.failure for clip in self.clips if clip.failure is not None]
        self.clips = [clip for clip in self.clips if clip.failure is None]
        if self.on_read is not None:
            self.on_read(self)

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> LazyClipBatch:
        """The batch for use on another device, where goes what was read ahead; as `ClipBatch.to`."""
        device = torch.device(device)
        return dataclasses.replace(self._map_ahead(_mover(device, non_blocking)), device=device)

    def pin_memory(self) -> LazyClipBatch:
        """The batch with what was read ahead in page-locked memory (called by the DataLoader)."""
        return self._map_ahead(Tensor.pin_memory)

    def _map_ahead(self, function: Callable[[Tensor], Tensor]) -> LazyClipBatch:
        return dataclasses.replace(self, ahead={name: function(clips) for name, clips in self.ahead.items()})

    def _take_ahead(self, stream: str, chosen: Sequence[int]) -> Tensor:
        """The uint8 clips of some of the videos, out of those that were read of all."""
        clips = self.ahead.pop(stream)
        return clips if len(chosen) == len(self) else clips.unflatten(0, (len(self), -1))[list(chosen)].flatten(0, 1)

    def __repr__(self) -> str:
        streams = ", ".join(f"{name}: {shape}" for name, shape in self.shapes.items())
        return f"LazyClipBatch({len(self)} videos x {self.num_views} views, {streams}, {len(self.failures)} failures)"


def _mover(device: torch.device, non_blocking: bool | None) -> Callable[[Tensor], Tensor]:
    """Takes tensors to a device; None: without waiting for them, if it is an accelerator."""
    asynchronous = device.type == "cuda" if non_blocking is None else non_blocking
    return lambda tensor: tensor.to(device, non_blocking=asynchronous)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _describe(tensor: Tensor) -> str:
    return f"{_shape(tensor)} {str(tensor.dtype).removeprefix('torch.')}"
