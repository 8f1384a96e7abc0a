"""The option of a second, smaller view of the same frames, which a network learns to do with.

"Rethinking Resolution in the Context of Efficient Video Recognition" (ResKD), NeurIPS 2022. Its code shrinks the tensor
that the large network sees; its text, for tests, shrinks the frames that views are cut from.
"""

from dataclasses import dataclass
from typing import Literal, get_args

MadeFrom = Literal["tensor", "source"]


@dataclass(frozen=True)
class LowResolution:
    """A small view `<stream>` beside the large one, `<stream>_high`, of each stream of frames.

    Both have the same geometry; where views are cut with `pixel_crop`, `size` is the short side.

    Args:
        size: side of the small view, pixels.
        made_from: "tensor": shrunk on the device from the large view, normalised (the paper's code); "source": cut by
            the workers out of the frames, as the large one is (the paper's text).
        antialias: whether it is shrunk with antialiasing; the paper's code does not. Bilinear either way.
    """

    size: int = 112
    made_from: MadeFrom = "tensor"
    antialias: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"low_resolution.size: expected at least 1, got {self.size}")
        if self.made_from not in get_args(MadeFrom):
            allowed = ", ".join(get_args(MadeFrom))
            raise ValueError(f"low_resolution.made_from: expected one of {allowed}, got {self.made_from!r}")
