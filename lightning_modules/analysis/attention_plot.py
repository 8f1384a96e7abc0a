"""Pictures of attention: heat over frames, several frames of a video, networks side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lightning_modules.analysis.attention import spread_over_frames

# Inches: the width of a frame, between frames, between groups of them, above, to the left and to the right of all.
SIDE, GAP, GROUP_GAP = 1.15, 0.04, 0.14
HEADING, TITLE, BAR_ROOM = 0.34, 1.4, 0.75
COLORS = "turbo"
VEIL = (0.15, 0.6)  # opacity of the heat where attention is 0 and 1


@dataclass(frozen=True)
class SeenVideos:
    """What one network sees of N videos, and where it is active.

    Args:
        frames: (N, T, H, W, 3) uint8, its own input as a picture.
        attention: (N, t, h, w) float, 0 to 1.
    """

    frames: np.ndarray
    attention: np.ndarray


def draw_attention(seen: Mapping[str, SeenVideos], videos: Sequence[Mapping[str, str]]) -> Figure:
    """A row for each video; columns: the frames, then each network's heat over them.

    Frames are shown again where the next network sees others, e.g. another resolution or stream.

    Args:
        seen: by the name to show, of the same videos.
        videos: ``path`` and ``class`` of each of the N.
    """
    groups = list(_groups(seen))
    layout = _Layout(len(videos), [pictures.shape[1] for _, pictures in groups], groups[0][1].shape[2:4])
    figure = Figure(figsize=layout.size)
    for group, (name, pictures) in enumerate(groups):
        figure.text(*layout.heading(group), name, fontsize=8, ha="center", va="bottom")
        for row, column in np.ndindex(pictures.shape[:2]):
            axis = figure.add_axes(layout.panel(row, group, column), xticks=[], yticks=[])
            axis.imshow(pictures[row, column], interpolation="nearest", aspect="auto")
    for row, video in enumerate(videos):
        figure.text(*layout.title(row), _title(video), fontsize=7, ha="right", va="center")
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLORS), cax=figure.add_axes(layout.bar))
    bar.set_label("attention, of the frame's largest", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


@dataclass(frozen=True)
class _Layout:
    """Where what stands, so that all frames are equally large; inches within, fractions of the figure without.

    Args:
        rows: videos.
        groups: frames in each group of columns.
        frame: height and width in pixels of the first frame.
    """

    rows: int
    groups: Sequence[int]
    frame: tuple[int, int]

    @property
    def size(self) -> tuple[float, float]:
        return self._left(len(self.groups), 0) + BAR_ROOM, HEADING + self.rows * (self._height + GAP) + GAP

    @property
    def bar(self) -> tuple[float, float, float, float]:
        height = min(self.size[1] - HEADING - 2 * GAP, 2.2)
        bottom = (self.size[1] - HEADING - height) / 2
        return self._fraction(self._left(len(self.groups), 0), bottom, 0.1, height)

    def panel(self, row: int, group: int, column: int) -> tuple[float, float, float, float]:
        bottom = self.size[1] - HEADING - (row + 1) * (self._height + GAP) + GAP
        return self._fraction(self._left(group, column), bottom, SIDE, self._height)

    def heading(self, group: int) -> tuple[float, float]:
        middle = (self._left(group, 0) + self._left(group, self.groups[group]) - GAP) / 2
        return self._fraction(middle, self.size[1] - HEADING + GAP)

    def title(self, row: int) -> tuple[float, float]:
        _, bottom, _, height = self.panel(row, 0, 0)
        return (TITLE - 2 * GAP) / self.size[0], bottom + height / 2

    @property
    def _height(self) -> float:
        return SIDE * self.frame[0] / self.frame[1]

    def _left(self, group: int, column: int) -> float:
        return TITLE + group * GROUP_GAP + (sum(self.groups[:group]) + column) * (SIDE + GAP)

    def _fraction(self, *values: float) -> Any:
        """x, y or x, y, width, height."""
        return tuple(value / self.size[place % 2] for place, value in enumerate(values))


def overlay(frames: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Heat over grey frames, denser where attention is higher.

    Args:
        frames: (..., H, W, 3) uint8.
        attention: (..., H, W) float, 0 to 1.

    Returns:
        (..., H, W, 3) uint8.
    """
    grey = frames.mean(axis=-1, keepdims=True) / 255
    heat = colormaps[COLORS](attention)[..., :3]
    opacity = VEIL[0] + (VEIL[1] - VEIL[0]) * attention[..., None]
    return np.round(255 * ((1 - opacity) * grey + opacity * heat)).astype(np.uint8)


def _groups(seen: Mapping[str, SeenVideos]) -> Iterator[tuple[str, np.ndarray]]:
    """Groups of columns: a heading, and pictures (N, T, H, W, 3) uint8."""
    shown: list[np.ndarray] = []
    for name, videos in seen.items():
        if not any(np.array_equal(videos.frames, frames) for frames in shown):
            shown.append(videos.frames)
            height, width = videos.frames.shape[2:4]
            yield f"input, {width} x {height}", videos.frames
        _, num_frames, height, width, _ = videos.frames.shape
        heat = spread_over_frames(torch.from_numpy(videos.attention), num_frames, (height, width))
        yield name, overlay(videos.frames, heat.clamp(0, 1).numpy())


def _title(video: Mapping[str, str]) -> str:
    """Class and file, in lines that fit beside a frame."""
    lines = [*wrap(video["class"].replace("_", " "), 20)[:3], Path(video["path"]).stem[-20:]]
    return "\n".join(line for line in lines if line)
