"""Reads one video into network input: which frames, all streams from one decode of each GOP, which views."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.bitstream import CompressedVideo, Frames, UnreadableVideoError
from datamodules.sampling import FrameSampler, frame_to_gop, motion_frame
from datamodules.transforms import STREAM_FORMATS, Geometry, PixelCrop, RandomCrops, cut_view, fixed_crops
from datamodules.video_source import VideoSource

Reference = Literal["iframe", "previous"]
Colorspace = Literal["bt601", "tagged"]
Place = tuple[int, int]  # GOP, position in it


@dataclass(frozen=True)
class Views:
    """What was read of one video.

    Attributes:
        streams: per stream (V, T, C, S, S) uint8, see `ClipReader.shapes`; clips outer, crops inner.
        corrupt_frames: damaged frames for which earlier ones stand in.
    """

    streams: dict[str, Tensor]
    corrupt_frames: int


@dataclass(frozen=True)
class ClipPlan:
    """Which frames of a video are read, and which views are cut out of them.

    Args:
        video: the video, not open yet.
        clips: K clips of T places each.
        geometries: of the views of each clip.
    """

    video: CompressedVideo
    clips: list[list[Place]]
    geometries: list[Geometry]

    def collect(self, read: Callable[[int, list[int]], list[Frames]]) -> dict[Place, Frames]:
        """Upright frames by place; `read` gives those of a GOP at rising positions."""
        frames: dict[Place, Frames] = {}
        places = {place for clip in self.clips for place in clip}
        for gop, group in groupby(sorted(places), key=itemgetter(0)):
            positions = [position for _, position in group]
            upright = [found.turned(self.video.index.rotation) for found in read(gop, positions)]
            frames |= {(gop, position): found for position, found in zip(positions, upright, strict=True)}
        return frames


@dataclass(frozen=True)
class ClipReader:
    """Reads the views of a video.

        video --FrameSampler--> (K, T) frames --> (gop, position) --read once each--> native integers per stream
                                                                                              |
        {stream: (V, T, C, S, S) uint8}  <--- cut_view, the same geometries for every stream -+

    Args:
        source: opens videos.
        sizes: S per stream, pixels.
        sampler: draws the frames.
        random_crops: draws the geometry of a training sample.
        num_crops: views per clip where nothing is drawn at random; see `fixed_crops`.
        crop_fraction: side of those views as a fraction of the short side.
        pixel_crop: a crop of absolute size for all views, those drawn at random too; S is its short side then.
        reference: what vectors and residuals refer to.
        colorspace: see `CompressedVideo.read`.
        rescale_vectors: see `cut_view`.
    """

    source: VideoSource
    sizes: dict[str, int]
    sampler: FrameSampler
    random_crops: RandomCrops
    num_crops: int = 1
    crop_fraction: float = 0.875
    pixel_crop: PixelCrop | None = None
    reference: Reference = "iframe"
    colorspace: Colorspace = "bt601"
    rescale_vectors: bool = False

    @property
    def motion(self) -> bool:
        """Whether any stream exists for P-frames alone."""
        return any(STREAM_FORMATS[stream].is_motion for stream in self.sizes)

    @property
    def num_views(self) -> int:
        """V where nothing is drawn at random."""
        return self.sampler.num_clips * self.num_crops

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(T, C, S, S) per stream, or (T, C, H, W) with `pixel_crop`."""
        frames, geometry = self.sampler.num_frames, Geometry(pixels=self.pixel_crop)
        return {s: (frames, STREAM_FORMATS[s].channels, *geometry.view_size(size)) for s, size in self.sizes.items()}

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
            frames = plan.collect(partial(self._read_gop, video))
            return Views({stream: self.cut(stream, frames, plan) for stream in self.sizes}, video.num_corrupt)

    def plan(self, path: str, rng: np.random.Generator | None = None) -> ClipPlan:
        """What `read` would read; arguments and errors as there, but for those of decoding."""
        video = self.source.open(path)
        upright = video.index.upright_size
        self._check_size(path, *upright)
        frames = self.sampler.draw(video.num_frames, motion=self.motion, rng=rng)
        clips = [[self._place(int(frame), video) for frame in clip] for clip in frames]
        return ClipPlan(video, clips, self._geometries(rng, landscape=upright[1] >= upright[0]))

    def cut(self, stream: str, frames: dict[Place, Frames], plan: ClipPlan) -> Tensor:
        """The views of one stream, (V, T, C, S, S) uint8, from the upright frames at all places of a plan."""
        arrays = [[getattr(frames[place], stream) for place in clip] for clip in plan.clips]
        return torch.stack(
            [
                cut_view(stream, clip, geometry, self.sizes[stream], rescale_vectors=self.rescale_vectors)
                for clip in arrays
                for geometry in plan.geometries
            ]
        )

    def _check_size(self, path: str, height: int, width: int) -> None:
        crop = self.pixel_crop
        if crop is not None and not crop.fits(height, width):
            reason = f"expected at least {crop.width}x{crop.height} pixels, got {width}x{height}"
            raise UnreadableVideoError(path, reason, "lower pixel_crop in the config, or leave the video out")

    def _geometries(self, rng: np.random.Generator | None, *, landscape: bool) -> list[Geometry]:
        if rng is not None:
            geometries = [self.random_crops.draw(rng)]
        else:
            geometries = fixed_crops(self.num_crops, self.crop_fraction, landscape=landscape)
        return [replace(geometry, pixels=self.pixel_crop) for geometry in geometries]

    def _place(self, frame: int, video: CompressedVideo) -> Place:
        """(gop, position) to read; I-frames alone are read once per GOP."""
        if self.motion:
            return motion_frame(frame, video.gops)
        gop, position = frame_to_gop(frame, video.gops)
        return gop, position if "rgb" in self.sizes else 0

    def _read_gop(self, video: CompressedVideo, gop: int, positions: list[int]) -> list[Frames]:
        """All streams, from one decode of the GOP."""
        return video.read_positions(
            gop=gop,
            positions=positions,
            streams=tuple(self.sizes),  # type: ignore[arg-type]  # checked by the data module
            reference=self.reference,
            colorspace=self.colorspace,
        )
