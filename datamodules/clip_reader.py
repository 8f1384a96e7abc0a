"""Reads one video into network input: which frames, all streams from one decode of each GOP, which views."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.bitstream import CompressedVideo, Frames, UnreadableVideoError
from datamodules.clip import parts_of
from datamodules.decord_video import DecordVideo
from datamodules.flow_cache import FlowSettings, Place, load_or_fill
from datamodules.low_resolution import LowResolution
from datamodules.sampling import FrameSampler, frame_to_gop, motion_frame
from datamodules.stream_views import StreamView, views_of
from datamodules.transforms import Geometry, PixelCrop, RandomCrops, cut_view, fixed_crops, is_motion
from datamodules.video_source import VideoSource

Reference = Literal["iframe", "previous"]
Colorspace = Literal["bt601", "tagged"]
Backend = Literal["pyav", "decord"]
Video = CompressedVideo | DecordVideo
_FLOW = FlowSettings()


@dataclass(frozen=True)
class Views:
    """What was read of one video.

    Attributes:
        streams: per view (V, T, C, S, S) uint8, see `ClipReader.cut_shapes`; clips outer, crops inner.
        corrupt_frames: damaged frames for which earlier ones stand in.
    """

    streams: dict[str, Tensor]
    corrupt_frames: int


@dataclass(frozen=True)
class ClipPlan:
    """Which frames of a video are read, and which views are cut out of them.

    Args:
        path: the video as it is listed.
        video: the same, or its stand-in, not open yet.
        clips: K clips of T places each.
        geometries: of the views of each clip.
    """

    path: str
    video: Video
    clips: list[list[Place]]
    geometries: list[Geometry]

    @property
    def places(self) -> set[Place]:
        """All that are read."""
        return {place for clip in self.clips for place in clip}

    def collect_iframes(self, colorspace: Colorspace) -> dict[Place, Frames]:
        """Upright I-frames by place."""
        assert isinstance(self.video, CompressedVideo)  # others have no I-frames
        gops = sorted({gop for gop, _ in self.places})
        pixels = self.video.read_iframes(gops=gops, colorspace=colorspace)
        upright = {gop: Frames(iframe=one).turned(self.video.rotation) for gop, one in zip(gops, pixels, strict=True)}
        return {(gop, position): upright[gop] for gop, position in self.places}

    def collect(self, read: Callable[[int, list[int]], list[Frames]]) -> dict[Place, Frames]:
        """Upright frames by place; `read` gives those of a GOP at rising positions."""
        frames: dict[Place, Frames] = {}
        for gop, group in groupby(sorted(self.places), key=itemgetter(0)):
            positions = [position for _, position in group]
            upright = [found.turned(self.video.rotation) for found in read(gop, positions)]
            frames |= {(gop, position): found for position, found in zip(positions, upright, strict=True)}
        return frames


@dataclass(frozen=True)
class ClipReader:
    """Reads the views of a video.

        video --FrameSampler--> (K, T) frames --> (gop, position) --read once each--> native integers per stream
                                                           flow: cache, or from the same decode |
        {view: (V, T, C, S, S) uint8}  <----- cut_view, the same geometries for every view ---+

    Args:
        source: opens videos.
        sizes: S per stream, pixels; of the larger view of those that have two.
        sampler: draws the frames.
        random_crops: draws the geometry of a training sample.
        num_crops: views per clip where nothing is drawn at random; see `fixed_crops`.
        crop_fraction: side of those views as a fraction of the short side.
        pixel_crop: a crop of absolute size for all views, those drawn at random too; S is its short side then.
        reference: what vectors, residuals and flow refer to.
        flow: how optical flow is computed and kept.
        colorspace: see `CompressedVideo.read`.
        rescale_vectors: see `cut_view`.
        low: the smaller view of streams of frames; None: there is none.
        backend: what decodes; decord gives plain frames alone, and knows the colorspace "tagged" alone.
    """

    source: VideoSource
    sizes: dict[str, int]
    sampler: FrameSampler
    random_crops: RandomCrops
    num_crops: int = 1
    crop_fraction: float = 0.875
    pixel_crop: PixelCrop | None = None
    reference: Reference = "iframe"
    flow: FlowSettings = _FLOW
    colorspace: Colorspace = "bt601"
    rescale_vectors: bool = False
    low: LowResolution | None = None
    backend: Backend = "pyav"

    @cached_property
    def views(self) -> dict[str, StreamView]:
        """What batches have of the streams, by name."""
        return views_of(self.sizes, self.low, self.pixel_crop)

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """What is decoded, see `Frames`."""
        return parts_of(*self.sizes)

    @cached_property
    def motion(self) -> bool:
        """Whether any stream exists for P-frames alone."""
        return any(map(is_motion, self.sizes))

    @property
    def num_views(self) -> int:
        """V where nothing is drawn at random."""
        return self.sampler.num_clips * self.num_crops

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(T, C, S, S) per view as networks see it, or (T, C, H, W) with `pixel_crop`."""
        return {name: (self.sampler.num_frames, *view.shape) for name, view in self.views.items()}

    @property
    def cut_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the views that are cut here, and not made of others later."""
        return {name: shape for name, shape in self.shapes.items() if self.views[name].made_from is None}

    @property
    def read_options(self) -> dict[str, Any]:
        """What `read_positions` and `keep_positions` of a video are told besides places and streams."""
        return {"reference": self.reference, "colorspace": self.colorspace, "flow": self.flow}

    @property
    def recipe(self) -> dict[str, str]:
        """What views depend on besides the video where nothing is drawn at random, by name."""
        apart = ("source", "random_crops", "flow")
        values = {field.name: repr(getattr(self, field.name)) for field in fields(self) if field.name not in apart}
        return {**values, "flow": self.flow.name, "source": self.source.recipe}

    def narrowed(self, names: Collection[str]) -> "ClipReader":
        """The same reader for no other streams than those that these views are of."""
        streams = {self.views[name].stream for name in names}
        sizes = {stream: size for stream, size in self.sizes.items() if stream in streams}
        return replace(self, sizes=sizes, source=replace(self.source, streams=parts_of(*sizes)))

    def read(self, path: str, rng: np.random.Generator | None = None) -> "Views":
        """The views of the video at `path`.

        Args:
            path: the file.
            rng: draws frames and one geometry (V = 1); None: the fixed views of an evaluation.

        Raises:
            UnreadableVideoError: the file cannot be read, or not right, or is smaller than `pixel_crop`.
        """
        plan = self.plan(path, rng)
        with plan.video as video:
            frames = self.collect(plan)
            return Views({name: self.cut(name, frames, plan) for name in self.cut_shapes}, video.num_corrupt)

    def plan(self, path: str, rng: np.random.Generator | None = None) -> ClipPlan:
        """What `read` would read; arguments and errors as there, but for those of decoding."""
        video = self._open(path)
        upright = video.index.upright_size
        self._check_size(path, *upright)
        frames = self.sampler.draw(video.num_frames, motion=self.motion, rng=rng)
        clips = [[self._place(int(frame), video) for frame in clip] for clip in frames]
        return ClipPlan(path, video, clips, self._geometries(rng, landscape=upright[1] >= upright[0]))

    def collect(self, plan: ClipPlan, streams: Collection[str] | None = None) -> dict[Place, Frames]:
        """Upright frames by place, those of each GOP from one decode; flow from its cache if it has one.

        Args:
            plan: what to read.
            streams: some of `self.streams`; None: all.

        Raises:
            UnreadableVideoError: the video cannot be decoded, or its flow is to be in the cache and is not.
            ModuleNotFoundError: flow has to be computed, and OpenCV is not there.
        """
        streams = self.streams if streams is None else streams
        if set(streams) == {"iframe"}:
            return plan.collect_iframes(self.colorspace)
        stored = self._stored_flow(plan) if "flow" in streams else None
        decoded = [stream for stream in streams if stream != "flow" or stored is None]
        return plan.collect(partial(self._read_gop, plan.video, decoded, stored or {}))

    def cut(self, name: str, frames: dict[Place, Frames], plan: ClipPlan) -> Tensor:
        """One view, or the one it is made from, (V, T, C, S, S) uint8, of the upright frames at a plan's places."""
        view = self.views[self.views[name].made_from or name]
        parts = [self._cut_part(part, view, frames, plan) for part in parts_of(view.stream)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _cut_part(self, stream: str, view: StreamView, frames: dict[Place, Frames], plan: ClipPlan) -> Tensor:
        options = {"rescale_vectors": self.rescale_vectors, "antialias": view.antialias}
        arrays = [[getattr(frames[place], stream) for place in clip] for clip in plan.clips]
        views = [
            cut_view(stream, clip, geometry, view.size, **options) for clip in arrays for geometry in plan.geometries
        ]
        return views[0][None] if len(views) == 1 else torch.stack(views)  # which would copy the one

    def _open(self, path: str) -> Video:
        video = self.source.open(path)
        return DecordVideo(video.path, video.index) if self.backend == "decord" else video

    def _check_size(self, path: str, height: int, width: int) -> None:
        crop = self.pixel_crop
        if crop is not None and not crop.fits(height, width):
            reason = f"expected at least {crop.width}x{crop.height} pixels, got {width}x{height}"
            raise UnreadableVideoError(path, reason, "lower pixel_crop in the config, or leave the video out")

    def _geometries(self, rng: np.random.Generator | None, *, landscape: bool) -> list[Geometry]:
        if rng is None:
            return list(self._fixed_geometries[landscape])
        return [replace(self.random_crops.draw(rng), pixels=self.pixel_crop)]

    @cached_property
    def _fixed_geometries(self) -> dict[bool, tuple[Geometry, ...]]:
        """Those of an evaluation, by whether the long side is the horizontal one."""
        return {
            landscape: tuple(
                replace(geometry, pixels=self.pixel_crop)
                for geometry in fixed_crops(self.num_crops, self.crop_fraction, landscape=landscape)
            )
            for landscape in (True, False)
        }

    def _place(self, frame: int, video: Video) -> Place:
        """(gop, position) to read; I-frames alone are read once per GOP."""
        if self.motion:
            return motion_frame(frame, video.gops)
        gop, position = frame_to_gop(frame, video.gops)
        return gop, position if "rgb" in self.streams else 0

    def _stored_flow(self, plan: ClipPlan) -> dict[Place, np.ndarray] | None:
        assert isinstance(plan.video, CompressedVideo)  # others have no flow
        return load_or_fill(self.flow, self.reference, plan.path, plan.video, plan.places)

    def _read_gop(
        self, video: Video, streams: list[str], stored: dict[Place, np.ndarray], gop: int, positions: list[int]
    ) -> list[Frames]:
        """Streams from one decode of the GOP, if there are any, with the flow that is stored."""
        frames = [Frames() for _ in positions]
        if streams:
            frames = video.read_positions(
                gop=gop,
                positions=positions,
                streams=streams,  # type: ignore[arg-type]  # checked by the data module
                **self.read_options,
            )
        if stored:
            frames = [replace(at, flow=stored[gop, position]) for at, position in zip(frames, positions, strict=True)]
        return frames
