"""Draws the demo videos: a floor seen by a camera, and objects that stand or move on it."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

SHAPES = ("disc", "square", "triangle", "cross")
BACKGROUND_SIZE = 192  # pixels, side of the periodic background


@dataclass(frozen=True)
class Scene:
    """All that a video shows, over T frames; lengths in pixels, angles in radians, colours in grey levels.

    Args:
        background: (S, S, 3) float32, S = `BACKGROUND_SIZE`, repeated periodically.
        camera: (T, 3), shift x and y of the background, and zoom.
        tints: (2, 3), colours added on either side of the border.
        floors: (2, 3, 4), for either side of the border three plane waves: wave numbers x and y, phase, amplitude.
        border: (3,), a line's normal x and y and its distance from the centre, fixed to the background.
        poses: (N, T, 4) of the objects, the last in front: x and y from the frame's centre, angle, scale.
        bodies: (N, 5): index of the shape, radius, contrast of the skin, and where its skin lies on the background.
        colors: (N, 3).
        grain: (G,) float32, added to the pixels; `grain_starts` (T,) says from where on.
    """

    background: np.ndarray
    camera: np.ndarray
    tints: np.ndarray
    floors: np.ndarray
    border: np.ndarray
    poses: np.ndarray
    bodies: np.ndarray
    colors: np.ndarray
    grain: np.ndarray
    grain_starts: np.ndarray

    def render(self, height: int, width: int) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB."""
        frames = np.empty((len(self.camera), height, width, 3), np.uint8)
        canvas = np.empty((height, width, 3), np.float32)
        skins = self.background[:, :, 1] - self.background[:, :, 1].mean()
        for time, camera in enumerate(self.camera):
            _paint_background(canvas, self.background, *camera)
            _paint_floors(canvas, self.tints, self.floors, self.border, *camera)
            for body, color, poses in zip(self.bodies, self.colors, self.poses, strict=True):
                _paint_object(canvas, skins, poses[time], body, color)
            _store(frames[time], canvas, self.grain, self.grain_starts[time])
        return frames


@njit(cache=True, nogil=True)
def add_octave(plane: np.ndarray, lattice: np.ndarray, amplitude: np.ndarray) -> None:
    """Adds the periodic (cells, cells) float32 lattice, interpolated, times (3,) amplitude, to (S, S, 3) plane."""
    size, cells = plane.shape[0], lattice.shape[0]
    step = cells / size
    for y in range(size):
        y0 = int(y * step)
        ty = y * step - y0
        y1 = (y0 + 1) % cells
        for x in range(size):
            x0 = int(x * step)
            tx = x * step - x0
            x1 = (x0 + 1) % cells
            top = lattice[y0, x0] * (1 - tx) + lattice[y0, x1] * tx
            bottom = lattice[y1, x0] * (1 - tx) + lattice[y1, x1] * tx
            for c in range(3):
                plane[y, x, c] += (top * (1 - ty) + bottom * ty) * amplitude[c]


@njit(cache=True, nogil=True)
def _grid(length: int, shift: float, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a line of pixels falls on the background: (length,) cells and (length,) float32 weights."""
    cells, weights = np.empty(length, np.intp), np.empty(length, np.float32)
    for k in range(length):
        place = (k - 0.5 * length - shift) / zoom
        place -= math.floor(place / BACKGROUND_SIZE) * BACKGROUND_SIZE
        cells[k] = int(place) % BACKGROUND_SIZE
        weights[k] = place - int(place)
    return cells, weights


@njit(cache=True, nogil=True)
def _paint_background(canvas: np.ndarray, background: np.ndarray, x_shift: float, y_shift: float, zoom: float) -> None:
    height, width, _ = canvas.shape
    rows, row_weights = _grid(height, y_shift, zoom)
    columns, column_weights = _grid(width, x_shift, zoom)
    line = np.empty((BACKGROUND_SIZE + 1, 3), np.float32)
    for y in range(height):
        upper, lower = background[rows[y]], background[(rows[y] + 1) % BACKGROUND_SIZE]
        for x in range(BACKGROUND_SIZE):
            for c in range(3):
                line[x, c] = upper[x, c] + (lower[x, c] - upper[x, c]) * row_weights[y]
        line[BACKGROUND_SIZE] = line[0]
        for x in range(width):
            left, right = line[columns[x]], line[columns[x] + 1]
            for c in range(3):
                canvas[y, x, c] = left[c] + (right[c] - left[c]) * column_weights[x]


@njit(cache=True, nogil=True)
def _phasors(length: int, shift: float, zoom: float, wave_numbers: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """(waves, length, 2) float32: cosine and sine of the waves' phases along one axis."""
    table = np.empty((len(wave_numbers), length, 2), np.float32)
    for w in range(len(wave_numbers)):
        for k in range(length):
            phase = wave_numbers[w] * (k - 0.5 * length - shift) / zoom + phases[w]
            table[w, k, 0], table[w, k, 1] = math.cos(phase), math.sin(phase)
    return table


@njit(cache=True, nogil=True)
def _paint_floors(
    canvas: np.ndarray,
    tints: np.ndarray,
    floors: np.ndarray,
    border: np.ndarray,
    x_shift: float,
    y_shift: float,
    zoom: float,
) -> None:
    height, width, _ = canvas.shape
    for side in range(2):
        tint = tints[side].astype(np.float32)
        amplitudes = floors[side, :, 3].astype(np.float32)
        along_x = _phasors(width, x_shift, zoom, floors[side, :, 0], np.zeros(3))
        along_y = _phasors(height, y_shift, zoom, floors[side, :, 1], floors[side, :, 2])
        for y in range(height):
            offset = border[1] * (y - 0.5 * height - y_shift) - border[2]
            for x in range(width):
                is_beyond = border[0] * (x - 0.5 * width - x_shift) + offset > 0
                if is_beyond != (side == 1):
                    continue
                value = np.float32(0)
                for w in range(3):  # cos(a + b) = cos a cos b - sin a sin b
                    value += amplitudes[w] * (along_x[w, x, 0] * along_y[w, y, 0] - along_x[w, x, 1] * along_y[w, y, 1])
                for c in range(3):
                    canvas[y, x, c] += value + tint[c]


@njit(cache=True, nogil=True)
def _coverage(shape: int, u: float, v: float, radius: float) -> float:
    """How much of a pixel at (u, v) radii from its centre an object covers."""
    if shape == 0:
        distance = math.sqrt(u * u + v * v) - 1
    elif shape == 1:
        distance = max(abs(u), abs(v)) - 0.86
    elif shape == 2:
        distance = max(v - 0.6, abs(u) * 0.866 - v * 0.5 - 0.6)
    else:
        distance = min(max(abs(u) - 1, abs(v) - 0.42), max(abs(v) - 1, abs(u) - 0.42))
    return min(1.0, max(0.0, 0.5 - distance * radius))


@njit(cache=True, nogil=True)
def _interpolated(plane: np.ndarray, x: float, y: float) -> float:
    """The periodic (S, S) plane at any place."""
    x -= math.floor(x / BACKGROUND_SIZE) * BACKGROUND_SIZE
    y -= math.floor(y / BACKGROUND_SIZE) * BACKGROUND_SIZE
    x0, y0 = int(x) % BACKGROUND_SIZE, int(y) % BACKGROUND_SIZE
    tx, ty = x - int(x), y - int(y)
    x1, y1 = (x0 + 1) % BACKGROUND_SIZE, (y0 + 1) % BACKGROUND_SIZE
    top = plane[y0, x0] * (1 - tx) + plane[y0, x1] * tx
    return top * (1 - ty) + (plane[y1, x0] * (1 - tx) + plane[y1, x1] * tx) * ty


@njit(cache=True, nogil=True)
def _paint_object(canvas: np.ndarray, skins: np.ndarray, pose: np.ndarray, body: np.ndarray, color: np.ndarray) -> None:
    height, width, _ = canvas.shape
    centre_x, centre_y = 0.5 * width + pose[0], 0.5 * height + pose[1]
    cos, sin, scale = math.cos(pose[2]), math.sin(pose[2]), pose[3]
    shape, radius = int(body[0]), body[1]
    reach = 1.3 * radius * scale + 1
    for y in range(max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 1)):
        for x in range(max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 1)):
            dx, dy = (x - centre_x) / scale, (y - centre_y) / scale
            u, v = cos * dx + sin * dy, cos * dy - sin * dx
            alpha = _coverage(shape, u / radius, v / radius, radius * scale)
            if alpha == 0.0:
                continue
            skin = body[2] * _interpolated(skins, u + body[3], v + body[4])
            for c in range(3):
                canvas[y, x, c] += alpha * (color[c] + skin - canvas[y, x, c])


@njit(cache=True, nogil=True)
def _store(frame: np.ndarray, canvas: np.ndarray, grain: np.ndarray, start: int) -> None:
    height, width, _ = canvas.shape
    for y in range(height):
        row = (start + 131 * y) % (len(grain) - width)
        for x in range(width):
            for c in range(3):
                value = canvas[y, x, c] + grain[row + x] + np.float32(0.5)
                frame[y, x, c] = np.uint8(min(np.float32(255), max(np.float32(0), value)))
