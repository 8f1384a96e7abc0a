"""Every frame of a video with its motion over it, beside its motion field and its residual."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from datamodules.bitstream import CompressedVideo
from datamodules.bitstream.frames import Reference
from datamodules.visualise.colors import motion_colors, motion_scale, residual_colors
from datamodules.visualise.legend import against, draw_residual_bar, draw_wheel, shortened
from datamodules.visualise.walk import SeenFrame, spread_positions, walk

PANELS = ("frame, its motion as arrows", "motion", "residual")
_NUM_SCALE_GOPS = 8
_NUM_SCALE_POSITIONS = 3

# Pixels of the overlay.
_MIN_PANEL = 320  # the longer side; smaller pictures are magnified by a whole number
_MAX_PANEL = 640  # the longer side; larger ones are reduced
_MIN_WIDTH = 600
_ARROW_STEP = 16
_HEADER = 96
_LABEL = 24
_GAP = 8
_LETTER = 8
_DPI = 100

_ARROW_SHAPE: dict[str, Any] = {
    "units": "dots",
    "width": 2.2,
    "headwidth": 4,
    "headlength": 4,
    "headaxislength": 3.5,
    "minlength": 0.5,
}
_TRUE_LENGTH: dict[str, Any] = {"pivot": "tip", "angles": "xy", "scale_units": "xy", "scale": 1}

Box = tuple[float, float, float, float]


def draw_overlay(
    video: CompressedVideo, *, gop: int | None = None, reference: Reference = "iframe", name: str
) -> Iterator[np.ndarray]:
    """The frames of an overlay video, one for each of the video's, painted as they are asked for.

    Args:
        video: one whose vectors can be read.
        gop: number of the GOP to show; all if None.
        reference: what vectors and residuals refer to.
        name: what to call the video.

    Yields:
        (H, W, 3) uint8 RGB, H and W even.

    Raises:
        UnreadableVideoError: vectors cannot be read, or the file is damaged.
    """
    gops = range(len(video.gops)) if gop is None else [gop]
    scale = motion_scale(_sample(video, gops, reference))
    painter = OverlayPainter(video.index.upright_size[::-1], scale, name, against(reference))
    return (painter.paint(seen, _caption(video, seen)) for seen in walk(video, gops, reference))


class OverlayPainter:
    """Paints frames with what the compressed video says of them, all of one layout and one scale.

    Three panels side by side, one above the other where pictures are wide. What stays the same is drawn once.

    Args:
        size: (width, height) of the video, pixels.
        scale: pixels of motion from which on colours are fully saturated.
        title, note: two lines of the header; a third one changes with the frame.
    """

    def __init__(self, size: tuple[int, int], scale: float, title: str, note: str) -> None:
        self._scale = scale
        self._step = max(1, round(_ARROW_STEP / _zoom(size)))
        self._figure, self._axes = _panels(size)
        blank = np.zeros((size[1], size[0], 3), np.uint8)
        how = "nearest" if _zoom(size) >= 1 else "antialiased"
        self._images = [axis.imshow(blank, aspect="auto", interpolation=how, animated=True) for axis in self._axes]
        self._axes[0].autoscale(False)
        self._caption = _header(self._figure, scale, title, note)
        self._canvas = FigureCanvasAgg(self._figure)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def paint(self, seen: SeenFrame, caption: str) -> np.ndarray:
        """(H, W, 3) uint8 picture of one frame, H and W even."""
        self._canvas.restore_region(self._background)
        pictures = seen.rgb, motion_colors(seen.mv, self._scale), residual_colors(seen.residual)
        for axis, image, picture in zip(self._axes, self._images, pictures, strict=True):
            image.set_data(picture)
            axis.draw_artist(image)
        self._draw_arrows(seen.mv)
        self._caption.set_text(caption)
        self._figure.draw_artist(self._caption)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_arrows(self, mv: np.ndarray) -> None:
        """An arrow for each moving point of a grid, from where it was to where it is."""
        first = self._step // 2
        y, x = (first + self._step * np.indices(mv[first :: self._step, first :: self._step, 0].shape)).reshape(2, -1)
        moving = mv[y, x].any(-1)
        x, y, vectors = x[moving], y[moving], mv[y, x][moving]
        if not len(x):
            return
        hues = motion_colors(vectors[None], 1e-3)[0] / 255
        arrows = self._axes[0].quiver(
            x, y, *vectors.T, facecolor=hues, edgecolor="black", linewidth=0.5, **_ARROW_SHAPE, **_TRUE_LENGTH
        )
        self._axes[0].draw_artist(arrows)
        arrows.remove()


def _sample(video: CompressedVideo, gops: Iterable[int], reference: Reference) -> Iterator[np.ndarray]:
    """Motion fields of some positions of some GOPs, at every fourth pixel: motion is that of blocks."""
    moving = [gop for gop in gops if video.gops[gop].length > 1]
    for number in np.unique(np.linspace(0, len(moving) - 1, _NUM_SCALE_GOPS).round().astype(int)) if moving else ():
        positions = spread_positions(video.gops[moving[number]], _NUM_SCALE_POSITIONS)
        for at in video.read_positions(moving[number], positions, streams=["mv"], reference=reference):
            assert at.mv is not None
            yield at.mv[::4, ::4]


def _caption(video: CompressedVideo, seen: SeenFrame) -> str:
    gop = video.gops[seen.gop]
    seconds = gop.start_time + gop.duration * seen.position / gop.length
    kind = f"P-frame {seen.position}" if seen.position else "I-frame"
    return f"{seconds:.2f} s   frame {gop.start + seen.position}   GOP {seen.gop}   {kind}"


def _zoom(size: tuple[int, int]) -> float:
    longer = max(size)
    return -(-_MIN_PANEL // longer) if longer < _MIN_PANEL else min(1.0, _MAX_PANEL / longer)


def _panels(size: tuple[int, int]) -> tuple[Figure, list[Axes]]:
    """A figure with one axes for each panel, each at whole pixels, so that pixels of the video stay crisp."""
    width, height = (max(1, round(side * _zoom(size))) for side in size)
    stacked = width > 2 * height
    across, down = (1, len(PANELS)) if stacked else (len(PANELS), 1)
    total_width = _even(max(_MIN_WIDTH, across * (width + _GAP) + _GAP))
    total_height = _even(_HEADER + down * (_LABEL + height + _GAP))
    figure = Figure((total_width / _DPI, total_height / _DPI), dpi=_DPI)
    margin = (total_width - across * (width + _GAP) + _GAP) // 2
    axes = []
    for number, name in enumerate(PANELS):
        column, row = (0, number) if stacked else (number, 0)
        left = margin + column * (width + _GAP)
        top = _HEADER + row * (_LABEL + height + _GAP) + _LABEL
        axis = figure.add_axes(_fractions(figure, (left, top, width, height)))
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color="0.7", linewidth=1.5)  # of which the outer half stays visible
        axis.set_title(name, fontsize=9, pad=5, loc="left")
        axes.append(axis)
    return figure, axes


def _header(figure: Figure, scale: float, title: str, note: str) -> Text:
    """Draws what stands above the panels; returns the line that is still empty."""
    width, height = figure.get_size_inches() * _DPI
    draw_wheel(figure.add_axes(_fractions(figure, (width - 1.2 * _HEADER, 0, 1.2 * _HEADER, _HEADER))), scale)
    draw_residual_bar(figure.add_axes(_fractions(figure, (width - 2.9 * _HEADER, 0, 1.7 * _HEADER, _HEADER))))
    title = shortened(title, int((width - 2.9 * _HEADER) / _LETTER))
    lines = [
        figure.text(_GAP / width, 1 - top / height, text, va="top", fontsize=9, **style)
        for top, text, style in ((12, title, {"weight": "bold"}), (36, note, {}), (60, "", {"animated": True}))
    ]
    return lines[-1]


def _fractions(figure: Figure, box: Box) -> Box:
    """(left, top, width, height) in pixels from the top left, as matplotlib wants it."""
    left, top, width, height = box
    across, down = figure.get_size_inches() * _DPI
    return left / across, 1 - (top + height) / down, width / across, height / down


def _even(length: float) -> int:
    return 2 * -(-int(length) // 2)
