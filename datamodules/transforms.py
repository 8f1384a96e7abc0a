"""From decoded frames to network input: one geometry for all streams, compact integers, and normalisation.

    (H, W, C) numbers --crop, negate x--> quantise --> uint8 --mirror, resize--> (T, C, S, S) uint8 | normalise

Everything up to the bar runs in a worker. Scaling as in CoViAR (Wu et al., CVPR 2018; `transforms.py` and `dataset.py`
of its public code), crops as in TSN (Wang et al., ECCV 2016). Where we differ: a flip negates vectors before they are
quantised, so that 0 stays 0 and nothing overflows, and the crop is resized after that, as uint8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.clip import parts_of

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_MV_BOUND = 20  # pixels that 127.5 grey levels stand for
_CENTRE = 0.5

CropOffsets = Literal["fixed", "random"]
# Corners and centre, then TSN's eight further ones: (x, y) as fractions of the room that a crop has.
_FIVE_OFFSETS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (_CENTRE, _CENTRE))
_FIXED_OFFSETS = (
    *_FIVE_OFFSETS,
    *((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0)),
    *((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
)


@dataclass(frozen=True)
class PixelCrop:
    """A crop of so many pixels, whatever the frame's size: for data whose frame sizes give the classes away.

    Args:
        height: pixels.
        width: pixels.
        reach: pixels that it may lie off the frame's centre, each way; None: as far as the frame goes.
    """

    height: int
    width: int
    reach: int | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or (self.reach is not None and self.reach < 0):
            raise ValueError(f"pixel_crop: expected height and width from 1, reach from 0, got {self}")

    def fits(self, frame_height: int, frame_width: int) -> bool:
        """Whether a frame of this size has such a crop."""
        return self.height <= frame_height and self.width <= frame_width

    def box(self, frame_height: int, frame_width: int, *, x: float, y: float) -> tuple[int, int, int, int]:
        """(top, left, height, width) in pixels; `x` and `y` as in `Geometry`, of the places within reach."""
        top, left = self._start(frame_height - self.height, y), self._start(frame_width - self.width, x)
        return top, left, self.height, self.width

    def _start(self, room: int, place: float) -> int:
        span = room if self.reach is None else min(room, 2 * self.reach)
        return round((room - span) / 2 + place * span)


@dataclass(frozen=True)
class Geometry:
    """Where a view is cut out of a frame, in relative terms, so that it fits frames of any size.

    Args:
        height: of the crop, as a fraction of the frame's short side.
        width: as `height`.
        x: 0 for the left edge, 1 for the right.
        y: 0 for the top edge, 1 for the bottom.
        flip: whether left and right are exchanged.
        pixels: a crop of absolute size, in place of `height` and `width`.
    """

    height: float = 1.0
    width: float = 1.0
    x: float = _CENTRE
    y: float = _CENTRE
    flip: bool = False
    pixels: PixelCrop | None = None

    def view_size(self, size: int) -> tuple[int, int]:
        """(height, width) that the crop is resized to: a square, or `pixels` with a short side of `size`."""
        if self.pixels is None:
            return size, size
        zoom = size / min(self.pixels.height, self.pixels.width)
        return round(zoom * self.pixels.height), round(zoom * self.pixels.width)

    def box(self, frame_height: int, frame_width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop in pixels."""
        if self.pixels is not None:
            return self.pixels.box(frame_height, frame_width, x=self.x, y=self.y)
        short = min(frame_height, frame_width)
        height, width = max(int(short * self.height), 1), max(int(short * self.width), 1)
        return round(self.y * (frame_height - height)), round(self.x * (frame_width - width)), height, width


@dataclass(frozen=True)
class RandomCrops:
    """Draws one geometry per sample (training).

    Args:
        scales: sides of the crop as fractions of the short side, falling; height and width differ by at most
            one step of this list, as in TSN.
        offsets: "fixed": one of TSN's 13 places; "random": anywhere.
        flip: probability of a horizontal flip.
    """

    scales: Sequence[float] = (1.0, 0.875, 0.75)
    offsets: CropOffsets = "fixed"
    flip: float = 0.5

    def draw(self, rng: np.random.Generator) -> Geometry:
        """One geometry."""
        steps = range(len(self.scales))
        pairs = [(i, j) for i, j in product(steps, steps) if abs(i - j) <= 1]
        i, j = pairs[rng.integers(len(pairs))]
        x, y = _FIXED_OFFSETS[rng.integers(len(_FIXED_OFFSETS))] if self.offsets == "fixed" else rng.random(2)
        return Geometry(self.scales[i], self.scales[j], float(x), float(y), flip=bool(rng.random() < self.flip))


def fixed_crops(num_crops: int, fraction: float, *, landscape: bool = True) -> list[Geometry]:
    """The geometries of an evaluation.

    Args:
        num_crops: 1: the centre; 3: along the long side; 10: corners and centre, each as it is and flipped.
        fraction: side of the crop as a fraction of the short side.
        landscape: whether the long side is the horizontal one.

    Raises:
        ValueError: another number of crops.
    """
    if num_crops not in FIXED_CROPS:
        allowed = ", ".join(map(str, FIXED_CROPS))
        raise ValueError(f"test_crops: expected one of {allowed}, got {num_crops}")
    return [
        Geometry(fraction, fraction, *(place if landscape else place[::-1]), flip=flip)
        for place, flip in FIXED_CROPS[num_crops]
    ]


FIXED_CROPS: dict[int, list[tuple[tuple[float, float], bool]]] = {
    1: [((_CENTRE, _CENTRE), False)],
    3: [((x, _CENTRE), False) for x in (0.0, _CENTRE, 1.0)],
    10: [(place, flip) for place in _FIVE_OFFSETS for flip in (False, True)],
}


def quantise_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors as grey levels about 128: (..., 2) pixels -> (..., 2) uint8; 20 pixels are 127 levels."""
    # 127.5 / 20 = 6.375 = 51 / 8 is exact in float32, so that truncation agrees with float64.
    return _about_128(np.multiply(vectors, np.float32(127.5 / _MV_BOUND), dtype=np.float32))


def quantise_residual(residual: np.ndarray) -> np.ndarray:
    """RGB differences as grey levels about 128: (..., 3) int16 -> (..., 3) uint8."""
    return _about_128(residual)


def _about_128(levels: np.ndarray) -> np.ndarray:
    """Truncates towards 0, adds 128, clips to uint8."""
    bounded = np.clip(levels, -128, 127).astype(np.int8)
    return bounded.view(np.uint8) ^ np.uint8(128)  # adds 128: -128 -> 0, 0 -> 128, 127 -> 255


def keep_pixels(pixels: np.ndarray) -> np.ndarray:
    """Pixels as they are: (..., 3) uint8."""
    return pixels


@dataclass(frozen=True)
class StreamFormat:
    """How a stream goes to the network.

    Args:
        quantise: what the reader gives to uint8.
        mean: per channel, of the uint8 values / 255.
        std: as `mean`.
        is_motion: whether it exists for P-frames alone.
        is_vector: whether its values are (x, y) in pixels, which a flip mirrors and a resize may scale.
    """

    quantise: Callable[[np.ndarray], np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_motion: bool = False
    is_vector: bool = False


STREAM_FORMATS: dict[str, StreamFormat] = {
    "iframe": StreamFormat(keep_pixels, _IMAGENET_MEAN, _IMAGENET_STD),
    "rgb": StreamFormat(keep_pixels, _IMAGENET_MEAN, _IMAGENET_STD),
    "mv": StreamFormat(quantise_vectors, (0.5, 0.5), (1.0, 1.0), is_motion=True, is_vector=True),
    "residual": StreamFormat(quantise_residual, (0.5, 0.5, 0.5), _IMAGENET_STD, is_motion=True),
    "flow": StreamFormat(quantise_vectors, (0.5, 0.5), (1.0, 1.0), is_motion=True, is_vector=True),
}


def num_channels(stream: str) -> int:
    """C of a stream, joint or not."""
    return sum(len(STREAM_FORMATS[part].mean) for part in parts_of(stream))


def is_motion(stream: str) -> bool:
    """Whether a stream, or a part of it, exists for P-frames alone."""
    return any(STREAM_FORMATS[part].is_motion for part in parts_of(stream))


def cut_view(
    stream: str,
    frames: Sequence[np.ndarray],
    geometry: Geometry,
    size: int,
    *,
    rescale_vectors: bool = False,
    antialias: bool = False,
) -> Tensor:
    """One view of T frames.

    Args:
        stream: name in `STREAM_FORMATS`, not joint.
        frames: T arrays (H, W, C) as the reader returns them.
        geometry: where it is cut.
        size: S, pixels, of the square that comes out; see `Geometry.view_size` for others.
        rescale_vectors: whether vectors grow and shrink with the resize (CoViAR keeps them).
        antialias: of the resize.

    Returns:
        view: (T, C, S, S) uint8.
    """
    form = STREAM_FORMATS[stream]
    top, left, height, width = geometry.box(*frames[0].shape[:2])
    view_height, view_width = geometry.view_size(size)
    crop = np.stack([frame[top : top + height, left : left + width] for frame in frames])
    if form.is_vector:
        zoom = (view_width / width, view_height / height) if rescale_vectors else (1.0, 1.0)
        crop = scale_vectors(crop, -zoom[0] if geometry.flip else zoom[0], zoom[1])
    return resize(form.quantise(crop), (view_height, view_width), flip=geometry.flip, antialias=antialias)


def scale_vectors(vectors: np.ndarray, x: float, y: float) -> np.ndarray:
    """Multiplies vectors by (x, y): (T, H, W, 2) int16 or float16 -> float32, or as it is where nothing changes."""
    if x == y == 1:
        return vectors
    # float32, since -(-32768) does not fit int16; whole rows, since numpy is slow on an innermost 2.
    rows = vectors.reshape(*vectors.shape[:2], -1) * np.tile(np.array([x, y], np.float32), vectors.shape[2])
    return rows.reshape(vectors.shape)


def resize(frames: np.ndarray, size: tuple[int, int], *, flip: bool = False, antialias: bool = False) -> Tensor:
    """Mirrored or not, and bilinear: (T, H, W, C) uint8 -> (T, C, *size) uint8, contiguous."""
    if frames.shape[1:3] == size:  # numpy transposes sooner than PyTorch
        mirrored = frames[:, :, ::-1] if flip else frames
        return torch.from_numpy(np.ascontiguousarray(mirrored.transpose(0, 3, 1, 2)))
    pixels = torch.from_numpy(frames)
    planes = (pixels.flip(2) if flip else pixels).permute(0, 3, 1, 2)
    return F.interpolate(planes, size=size, mode="bilinear", antialias=antialias).contiguous()


def normalisation(stream: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of uint8 values / 255, that a stream, joint or not, is normalised by."""
    forms = [STREAM_FORMATS[part] for part in parts_of(stream)]
    return [*chain(*(form.mean for form in forms))], [*chain(*(form.std for form in forms))]


def normalise(stream: str, frames: Tensor) -> Tensor:
    """What the network sees: (..., C, H, W) uint8 -> float32, on the device that `frames` are on, equal on all."""
    largest, mean, std = _normalisation_on(stream, frames.device)
    return frames.float().div_(largest).sub_(mean).div_(std)


@cache
def _normalisation_on(stream: str, device: torch.device) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):  # for training, too
        # 255 as a tensor, since GPUs multiply by the reciprocal of a number, which rounds otherwise.
        values = ([255.0], *normalisation(stream))
        return tuple(torch.tensor(each, device=device).view(-1, 1, 1) for each in values)
