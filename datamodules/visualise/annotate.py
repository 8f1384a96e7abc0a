"""A video again with words on every frame, such as what a network says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from datamodules.bitstream import build_index, reencode
from datamodules.visualise.legend import shortened

# Pixels.
_MIN_SIDE = 320  # the longer one; smaller videos are magnified by a whole number
_MIN_ROW = 16
_ROWS = 24  # in a picture's height
_ROW_LENGTH = 20  # rows that a row is long
_DPI = 100

_LETTER = 0.4  # of a row: its width
_FONT = 0.6
_OPACITY = 0.6  # of what is dark; letters are opaque


@dataclass(frozen=True)
class Line:
    """A line of words.

    Args:
        text: the words; shortened where they are too long for the picture.
        share: length of the bar behind them, 0 to 1.
    """

    text: str
    share: float = 0.0


@dataclass(frozen=True)
class Label:
    """Grey words on a dark ground, for the top left corner of pictures; colours below it fade.

    Args:
        luma: (h, w) float32, Y from 16 to 235, h and w even.
        opacity: (h, w) float32, 0 to 1.
    """

    luma: np.ndarray
    opacity: np.ndarray

    def paint(self, planes: np.ndarray) -> None:
        """Blend it into a picture in place: (3 * H / 2, W) uint8, see `reencode`."""
        width, height = planes.shape[1], planes.shape[0] * 2 // 3
        y, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
        _blend(y, self.luma, self.opacity)
        rows, columns = self.opacity.shape
        opacity = self.opacity.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        for plane in chroma:
            _blend(plane, 128, opacity)


def annotate(source: str, target: str | Path, lines: Sequence[Line]) -> None:
    """Writes a video with lines of words on every frame, at its own times, as H.264 without sound.

    Args:
        source: any video that PyAV decodes.
        target: an .mp4 or .mov file, written whole or not at all.
        lines: from the top down; at least one.

    Raises:
        UnreadableVideoError: the video cannot be decoded to its end.
        ValueError: the target is the video itself, or another kind of file.
    """
    if Path(target).exists() and Path(target).samefile(source):
        raise ValueError(f"{target}: that is the video itself; choose another folder")
    height, width = build_index(source).upright_size
    zoom = max(1, -(-_MIN_SIDE // max(width, height)))
    size = (zoom * width // 2 * 2, zoom * height // 2 * 2)
    label = draw_label(lines, size)
    reencode(source, target, codec="h264", size=size if zoom > 1 else None, paint=label.paint)


def draw_label(lines: Sequence[Line], size: tuple[int, int]) -> Label:
    """The label for pictures of a size.

    Args:
        lines: from the top down; at least one.
        size: (width, height) of the pictures, pixels, both even.
    """
    row = max(2, min(max(_MIN_ROW, size[1] // _ROWS), size[1] // len(lines)))
    width, height = min(size[0], _ROW_LENGTH * row // 2 * 2), -(-row * len(lines) // 2) * 2
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    for number, line in enumerate(lines):
        top, thickness = 1 - number * row / height, row / height
        figure.add_artist(Rectangle((0, top - thickness), line.share, thickness, facecolor="0.4"))
        text = shortened(line.text, max(3, int(width / (_LETTER * row))))
        style: dict[str, Any] = {"color": "white", "fontsize": _FONT * row * 72 / _DPI, "parse_math": False}
        figure.text(0.2 * row / width, top - thickness / 2, text, va="center_baseline", **style)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    brightness = np.asarray(canvas.buffer_rgba())[: size[1], :, 0].astype(np.float32) / 255
    return Label(16 + 219 * brightness, _OPACITY + (1 - _OPACITY) * brightness)


def _blend(plane: np.ndarray, value: np.ndarray | int, opacity: np.ndarray) -> None:
    """Into the top left corner of a uint8 plane, in place."""
    corner = plane[: opacity.shape[0], : opacity.shape[1]]
    corner[:] = np.rint(corner + opacity * (value - corner.astype(np.float32)))
