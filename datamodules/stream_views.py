"""The views that batches have of each stream: which ones, how large, and who makes them.

    frames --worker: cut, resize--> {view: uint8} | --device: normalise--> {view: float32} --shrink--> the small view

The small view of two as in ResKD, see `low_resolution.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from datamodules.clip import ClipBatch
from datamodules.low_resolution import LowResolution
from datamodules.transforms import Geometry, PixelCrop, is_motion, normalise, num_channels

HIGH = "_high"  # behind a stream's name: the larger of its two views


@dataclass(frozen=True)
class StreamView:
    """One view of a stream.

    Args:
        stream: what it shows, a name in `STREAM_FORMATS`, or several joined by "+".
        size: S, its side, or with `pixels` its short side.
        pixels: the crop of absolute size that it shows, where there is one.
        antialias: whether it is shrunk with antialiasing.
        made_from: the view that it is shrunk from on the device; None: a worker cuts it out of the frames.
    """

    stream: str
    size: int
    pixels: PixelCrop | None = None
    antialias: bool = False
    made_from: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) as a network sees it."""
        return num_channels(self.stream), *Geometry(pixels=self.pixels).view_size(self.size)

    def shrink(self, clips: Tensor) -> Tensor:
        """Bilinear, corners not aligned: (..., T, C, H, W) float32 of `made_from` -> (..., T, *shape) float32."""
        frames = clips.flatten(0, -4)
        small = F.interpolate(frames, self.shape[1:], mode="bilinear", align_corners=False, antialias=self.antialias)
        return small.unflatten(0, clips.shape[:-3])


def views_of(
    sizes: Mapping[str, int], low: LowResolution | None = None, pixels: PixelCrop | None = None
) -> dict[str, StreamView]:
    """The views of each stream by name: `<stream>`, and `<stream>_high` where it has two.

    Args:
        sizes: S of each stream; of its larger view where it has two.
        low: the smaller view of streams of frames; None: there is none. Vectors and residuals have one view.
        pixels: the crop of absolute size that views show, where there is one.
    """
    views = {}
    for stream, size in sizes.items():
        whole = StreamView(stream, size, pixels)
        if low is None or is_motion(stream):
            views[stream] = whole
        else:
            made_from = stream + HIGH if low.made_from == "tensor" else None
            views[stream] = StreamView(stream, low.size, pixels, low.antialias, made_from)
            views[stream + HIGH] = whole
    return views


def normalise_view(views: Mapping[str, StreamView], name: str, frames: Tensor) -> Tensor:
    """What a network sees of a view: (..., T, C, H, W) uint8 of it, or of the one it is made from -> float32."""
    view = views[name]
    clips = normalise(view.stream, frames)
    return clips if view.made_from is None else view.shrink(clips)


def normalise_batch(views: Mapping[str, StreamView], batch: ClipBatch) -> ClipBatch:
    """Puts normalised views in place of the uint8 ones of the workers, those that are made on the device too.

    Views of streams that the batch was not to have are left out.
    """
    clips = {name: normalise(views[name].stream, frames) for name, frames in batch.streams.items()}
    batch.streams = {
        name: clips[name] if view.made_from is None else view.shrink(clips[view.made_from])
        for name, view in views.items()
        if (view.made_from or name) in clips
    }
    return batch
