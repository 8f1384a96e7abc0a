"""Who does what, where, in the demo videos: classes, motions, and everything else that is left to chance."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from datamodules.demo_motions import MOTIONS, Generator, make_poses, random_phase, random_rate
from datamodules.demo_render import BACKGROUND_SIZE, SHAPES, Scene, add_octave

PATTERNS = ("stripes", "checks", "dots")  # interference of 1, 2 and 3 plane waves
HUES = {"disc": 0.0, "square": 0.25, "triangle": 0.5, "cross": 0.75}  # usual colours of objects, in turns
TINTS = {"amber": (20.0, 2.0, -22.0), "blue": (-20.0, -2.0, 22.0)}  # grey levels added to red, green and blue
_NO_BORDER = (1.0, 0.0, 1e9)


@dataclass(frozen=True)
class Action:
    """A class: what moves, how, and where."""

    motion: str
    shape: str
    tint: str
    pattern: str

    @property
    def name(self) -> str:
        return f"{self.motion}_{self.shape}_on_{self.tint}_{self.pattern}"


ACTIONS = (
    Action("spinning", "disc", "amber", "stripes"),
    Action("spinning", "disc", "blue", "stripes"),
    Action("sliding", "square", "blue", "checks"),
    Action("sliding", "square", "blue", "dots"),
    Action("bouncing", "triangle", "amber", "dots"),
    Action("bouncing", "triangle", "blue", "dots"),
    Action("swinging", "square", "amber", "checks"),
    Action("swinging", "square", "blue", "checks"),
    Action("pulsing", "triangle", "amber", "checks"),
    Action("pulsing", "triangle", "blue", "checks"),
    Action("circling", "cross", "amber", "stripes"),
    Action("circling", "cross", "amber", "dots"),
)


@dataclass(frozen=True)
class Difficulty:
    """Chances and ranges of what hides an action; lengths in pixels, contrasts in grey levels."""

    bystander_chance: float = 0.4  # an object of any shape stands still
    drifter_chance: float = 0.4  # an object of any shape crosses the scene, straight and slowly
    patch_chance: float = 0.35  # part of the floor has another pattern
    moving_camera_chance: float = 0.4
    shake: float = 1.0
    pan: float = 1.6  # a frame
    floor_period: tuple[float, float] = (2.4, 2.8)
    floor_contrast: tuple[float, float] = (12.0, 20.0)
    floor_tilt: float = 0.25  # radians
    tint: tuple[float, float] = (0.5, 1.1)  # times `TINTS`
    tint_spread: float = 6.0
    background_contrast: float = 32.0
    radius: tuple[float, float] = (19.0, 26.0)
    bystander_radius: tuple[float, float] = (11.0, 18.0)
    hue_spread: float = 0.11  # turns, standard deviation
    saturation: tuple[float, float] = (0.4, 0.8)
    brightness: tuple[float, float] = (80.0, 170.0)
    skin_contrast: float = 0.7  # times the background's
    grain: float = 3.5


def make_scene(
    action: Action,
    background: np.ndarray,
    rng: Generator,
    *,
    num_frames: int,
    difficulty: Difficulty = Difficulty(),
) -> Scene:
    """An actor that does `action` amid bystanders, on a floor, before a camera.

    Args:
        action: the class.
        background: as of `make_background`.
        rng: everything else is drawn from it.
        num_frames: T.
        difficulty: chances and ranges.
    """
    time = np.arange(num_frames, dtype=np.float64)
    camera = _camera(rng, time, difficulty)
    floor = (action.tint, action.pattern)
    border, patch = _patch(floor, rng, difficulty)
    cast = [*_bystanders(rng, time, camera, difficulty), _actor(action, rng, time, difficulty)]
    poses = np.stack([poses for _, _, poses in cast])
    poses[:, :, :2] += camera.shake
    return Scene(
        background=background,
        camera=np.concatenate([camera.pan + camera.shake, camera.zoom[:, None]], axis=1),
        tints=np.stack([_tint(tint, rng, difficulty) for tint, _ in (floor, patch)]),
        floors=np.stack([_floor(pattern, rng, difficulty) for _, pattern in (floor, patch)]),
        border=border,
        poses=poses,
        bodies=np.stack([body for body, _, _ in cast]),
        colors=np.stack([color for _, color, _ in cast]),
        grain=rng.normal(0, difficulty.grain, 4096).astype(np.float32),
        grain_starts=rng.integers(0, 4096, num_frames),
    )


def make_background(rng: Generator, difficulty: Difficulty = Difficulty()) -> np.ndarray:
    """(S, S, 3) float32, four octaves of periodic noise around a dull colour."""
    level = rng.uniform(80, 165) + rng.normal(0, 8, 3)
    background = np.tile(level.astype(np.float32), (BACKGROUND_SIZE, BACKGROUND_SIZE, 1))
    weights = rng.uniform(0.4, 1.0, 4) * (1.0, 1.0, 0.7, 0.3)
    for cells, weight in zip((6, 16, 48, 96), weights / np.linalg.norm(weights), strict=True):
        lattice = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        tint = rng.normal(1, 0.12, 3) * weight * difficulty.background_contrast
        add_octave(background, lattice, tint.astype(np.float32))
    return background


@dataclass(frozen=True)
class _Camera:
    """(T, 2) shake moves all that is seen; (T, 2) pan and (T,) zoom move all but the actor, which is followed."""

    shake: np.ndarray
    pan: np.ndarray
    zoom: np.ndarray

    def follow(self, poses: np.ndarray) -> np.ndarray:
        """How (T, 4) poses on the floor are seen, shake left out."""
        x, y, angle, scale = poses.T
        return np.stack([x * self.zoom + self.pan[:, 0], y * self.zoom + self.pan[:, 1], angle, scale * self.zoom], -1)


def _camera(rng: Generator, time: np.ndarray, difficulty: Difficulty) -> _Camera:
    moving = float(rng.random() < difficulty.moving_camera_chance)
    elapsed = time - time.mean()
    pan = rng.normal(0, difficulty.pan / 2, 2) * moving * elapsed[:, None]
    zoom = np.exp(rng.uniform(-0.004, 0.004) * moving * elapsed)
    return _Camera(_shake(rng, time, difficulty.shake * moving), pan, zoom)


def _shake(rng: Generator, time: np.ndarray, size: float) -> np.ndarray:
    """(T, 2): two slow waves along each axis, and a tremble."""
    rates, phases, sizes = rng.uniform(0.1, 0.7, (2, 2)), rng.uniform(0, 6.28, (2, 2)), rng.uniform(0, size, (2, 1))
    waves = (sizes * np.sin(time[:, None, None] * rates + phases)).sum(axis=1)
    return waves + rng.normal(0, 0.15, waves.shape) * size


def _patch(floor: tuple[str, str], rng: Generator, difficulty: Difficulty) -> tuple[np.ndarray, tuple[str, str]]:
    """A border on the floor, or none in sight, and the tint and pattern beyond it."""
    if rng.random() >= difficulty.patch_chance:
        return np.array(_NO_BORDER), floor
    angle, distance = random_phase(rng), rng.uniform(5, 35)
    beyond = (list(TINTS)[rng.integers(len(TINTS))], PATTERNS[rng.integers(len(PATTERNS))])
    return np.array([math.cos(angle), math.sin(angle), distance]), beyond


def _tint(tint: str, rng: Generator, difficulty: Difficulty) -> np.ndarray:
    """(3,) grey levels."""
    return np.array(TINTS[tint]) * rng.uniform(*difficulty.tint) + rng.normal(0, difficulty.tint_spread, 3)


def _floor(pattern: str, rng: Generator, difficulty: Difficulty) -> np.ndarray:
    """(3, 4) plane waves, as in `Scene`; patterns have equal energy."""
    count = PATTERNS.index(pattern) + 1
    angles = rng.uniform(-difficulty.floor_tilt, difficulty.floor_tilt) + math.pi * np.arange(3) / count
    rate = random_rate(rng, *difficulty.floor_period)
    amplitude = rng.uniform(*difficulty.floor_contrast) / math.sqrt(count) * (np.arange(3) < count)
    return np.stack([rate * np.cos(angles), rate * np.sin(angles), rng.uniform(0, 6.28, 3), amplitude], axis=1)


_Member: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # body, colour and poses, as in `Scene`


def _actor(action: Action, rng: Generator, time: np.ndarray, difficulty: Difficulty) -> _Member:
    poses = MOTIONS[action.motion](rng, time)
    poses[:, :2] += rng.uniform(-10, 10, 2)
    return *_object(action.shape, difficulty.radius, rng, difficulty), poses


def _bystanders(rng: Generator, time: np.ndarray, camera: _Camera, difficulty: Difficulty) -> list[_Member]:
    chances = (difficulty.bystander_chance, difficulty.drifter_chance)
    members = [
        (
            *_object(SHAPES[rng.integers(len(SHAPES))], difficulty.bystander_radius, rng, difficulty),
            camera.follow(_aside(rng, time, drifts)),
        )
        for drifts, chance in enumerate(chances)
        if rng.random() < chance
    ]
    return members if rng.random() < 0.5 else members[::-1]


def _aside(rng: Generator, time: np.ndarray, drifts: int) -> np.ndarray:
    """(T, 4) poses beside the centre, still or on a straight and slowly turning course."""
    angle, distance = random_phase(rng), rng.uniform(22, 44)
    course, turn = rng.normal(0, 0.8, 2) * drifts, rng.uniform(-0.03, 0.03) * drifts
    elapsed = time - time.mean()
    x, y = distance * math.cos(angle) + course[0] * elapsed, distance * math.sin(angle) + course[1] * elapsed
    return make_poses(time, x, y, turn * time)


def _object(
    shape: str, radius: tuple[float, float], rng: Generator, difficulty: Difficulty
) -> tuple[np.ndarray, np.ndarray]:
    """A body and its colour, as in `Scene`."""
    hue = HUES[shape] + rng.normal(0, difficulty.hue_spread)
    tint = 1 + rng.uniform(*difficulty.saturation) * np.cos(2 * math.pi * (hue - np.arange(3) / 3))
    skin = (difficulty.skin_contrast, *rng.uniform(0, BACKGROUND_SIZE, 2))
    body = np.array([SHAPES.index(shape), rng.uniform(*radius), *skin])
    return body, tint * rng.uniform(*difficulty.brightness)
