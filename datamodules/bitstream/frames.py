"""What a read gives: the streams of one or several frames."""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

Stream = Literal["iframe", "mv", "residual", "rgb", "flow"]
Reference = Literal["iframe", "previous"]
Colorspace = Literal["bt601", "tagged"]

STREAMS: tuple[Stream, ...] = get_args(Stream)
VECTOR_STREAMS = frozenset({"mv", "residual"})  # made of motion vectors
MOTION_STREAMS = VECTOR_STREAMS | {"flow"}  # read where there are motion vectors


@dataclass
class Frames:
    """The streams that were asked for, at one position or (with a leading dimension) over a GOP; None elsewhere.

    Attributes:
        iframe: (H, W, 3) uint8 RGB, the GOP's I-frame.
        mv: (H, W, 2) int16, whole pixels, dst - src, x before y; over a GOP (L-1, H, W, 2). Float32 if resized.
        residual: (H, W, 3) int16, RGB difference; over a GOP (L-1, H, W, 3).
        rgb: (H, W, 3) uint8, the decoded frame; over a GOP (L, H, W, 3).
        flow: (H, W, 2) float16, pixels, optical flow from the reference to the frame, x before y, rounded to 1/64
            pixel; over a GOP (L-1, H, W, 2). Float32 if resized.
    """

    iframe: np.ndarray | None = None
    mv: np.ndarray | None = None
    residual: np.ndarray | None = None
    rgb: np.ndarray | None = None
    flow: np.ndarray | None = None

    def at(self, number: int) -> "Frames":
        """The streams of one of several positions; the I-frame is the same for all."""
        pick = {name: None if array is None else array[number] for name, array in vars(self).items()}
        return Frames(**{**pick, "iframe": self.iframe})

    def repeat_last(self, times: int) -> "Frames":
        """The last of several positions `times` more."""
        if not times:
            return self
        numbers = {
            name: [*range(len(array)), *[len(array) - 1] * times]
            for name, array in vars(self).items()
            if array is not None and name != "iframe"
        }
        return replace(self, **{name: getattr(self, name)[order] for name, order in numbers.items()})

    def turned(self, degrees: int) -> "Frames":
        """The same, turned counterclockwise by a multiple of 90 degrees; vectors turn with their frame."""
        quarters = degrees // 90 % 4
        if not quarters:
            return self
        turned = {name: None if array is None else _turn(array, quarters) for name, array in vars(self).items()}
        for name in ("mv", "flow"):
            if (vectors := turned[name]) is not None:
                turned[name] = _turn_vectors(vectors, quarters)
        return Frames(**turned)

    def __repr__(self) -> str:
        arrays = ((field.name, getattr(self, field.name)) for field in fields(self))
        shown = (f"{name}={array.dtype}{list(array.shape)}" for name, array in arrays if array is not None)
        return f"Frames({', '.join(shown)})"


def _turn(array: np.ndarray, quarters: int) -> np.ndarray:
    return np.rot90(array, quarters, axes=(-3, -2))


def _turn_vectors(vectors: np.ndarray, quarters: int) -> np.ndarray:
    """A quarter counterclockwise takes (x, y) to (y, -x), y pointing down."""
    for _ in range(quarters):
        vectors = np.stack([vectors[..., 1], -vectors[..., 0]], -1)
    return vectors
