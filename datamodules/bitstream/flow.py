"""Optical flow between two frames, by OpenCV: what a motion vector would be if an encoder looked for motion.

Privileged information of IP TSN (arXiv 1912.04462), which does not say how its flow is computed. Ours: DIS (Kroeger et
al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), or TV-L1 (Zach et al., DAGM 2007), some 80 times
slower. OpenCV is an extra of this package, and imported when flow is computed, never before.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np

Method = Literal["dis", "tvl1"]
Preset = Literal["ultrafast", "fast", "medium"]

_MIN_SIDE = 32  # pixels; on smaller pyramids OpenCV 5.0's DIS reads out of bounds
_STEPS = 64  # a pixel, of what `compact` keeps


@dataclass(frozen=True)
class FlowMethod:
    """How optical flow is computed.

    Args:
        method: "dis" or "tvl1".
        preset: of "dis", "ultrafast", "fast" or "medium". One below "medium" loses small objects that move fast.
    """

    method: Method = "dis"
    preset: Preset = "medium"

    def __post_init__(self) -> None:
        for key, value, allowed in (("method", self.method, Method), ("preset", self.preset, Preset)):
            if value not in get_args(allowed):
                raise ValueError(f"flow.{key}: expected one of {', '.join(get_args(allowed))}, got {value!r}")

    @property
    def name(self) -> str:
        """E.g. "dis-medium", or "tvl1"."""
        return f"dis-{self.preset}" if self.method == "dis" else self.method

    def between(self, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Motion from one frame to a later one, with the sign of motion vectors, and at their places.

        Those are the places of the later frame: `later[y, x]` is about `earlier[y - flow_y, x - flow_x]`. So it is
        computed from the later frame to the earlier one, and negated.

        Args:
            earlier, later: (H, W) uint8 grey, or (H, W, 3) uint8 RGB.

        Returns:
            flow: (H, W, 2) float32, pixels, x before y.

        Raises:
            ModuleNotFoundError: OpenCV is not there.
            ValueError: arrays of another type or shape, or of two shapes.
        """
        if earlier.shape[:2] != later.shape[:2]:
            raise ValueError(f"expected two frames of one size, got {earlier.shape} and {later.shape}")
        cv2, (height, width) = import_opencv(), later.shape[:2]
        frames = [_padded(_grey(cv2, frame)) for frame in (later, earlier)]
        return 0 - _ALGORITHMS[self.method](cv2, self.preset).calc(*frames, None)[:height, :width]


def compact(flow: np.ndarray) -> np.ndarray:
    """Flow as it is kept: (..., 2) float32 -> float16, rounded to 1/64 pixel.

    That is a tenth of a grey level of what networks see, and a fifth of the bytes once deflated.
    """
    steps = np.rint(flow * _STEPS) + 0.0  # no -0.0, of which deflate would know nothing
    return (steps / _STEPS).astype(np.float16)


@cache
def import_opencv() -> Any:
    """The package, limited to one thread: loader workers are parallel enough, and threads do not survive their fork.

    Raises:
        ModuleNotFoundError: it is not there, or lacks what flow needs.
    """
    try:
        cv2 = import_module("cv2")  # not by a statement: its stubs lack what is used here
        _ = cv2.DISOpticalFlow_create, cv2.optflow.DualTVL1OpticalFlow_create
    except (ImportError, AttributeError) as error:
        raise ModuleNotFoundError(
            f"stream 'flow' needs OpenCV with its contributed modules, which do not import here ({error}): "
            "`pip install 'streamkd[flow]'`, and no other OpenCV beside it. Only training needs flow: where it is "
            "privileged, leave it out of `data.streams`, or name it in `data.privileged`"
        ) from error
    cv2.setNumThreads(0)
    return cv2


def _dis(cv2: Any, preset: Preset) -> Any:
    return cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))


def _tvl1(cv2: Any, preset: Preset) -> Any:
    return cv2.optflow.DualTVL1OpticalFlow_create()


_ALGORITHMS = {"dis": _dis, "tvl1": _tvl1}


def _grey(cv2: Any, frame: np.ndarray) -> np.ndarray:
    """(H, W) uint8, contiguous."""
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected a frame (H, W) or (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    frame = np.ascontiguousarray(frame)
    return frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _padded(grey: np.ndarray) -> np.ndarray:
    """Repeats the last row and column where a frame is too small."""
    room = [(0, max(_MIN_SIDE - side, 0)) for side in grey.shape]
    return np.pad(grey, room, mode="edge") if max(room)[1] else grey
