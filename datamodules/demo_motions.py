"""How the actors of the demo videos move."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Generator: TypeAlias = np.random.Generator
# From a generator and the (T,) times in frames to (T, 4) poses: x and y from the centre in pixels, angle, scale.
Motion: TypeAlias = Callable[[Generator, np.ndarray], np.ndarray]


def make_poses(
    time: np.ndarray, x: ArrayLike = 0.0, y: ArrayLike = 0.0, angle: ArrayLike = 0.0, scale: ArrayLike = 1.0
) -> np.ndarray:
    return np.stack([np.broadcast_to(values, time.shape) for values in (x, y, angle, scale)], axis=-1)


def random_phase(rng: Generator) -> float:
    return rng.uniform(0, 2 * math.pi)


def random_rate(rng: Generator, shortest: float, longest: float) -> float:
    """Radians a frame, of a period in frames."""
    return 2 * math.pi / rng.uniform(shortest, longest)


def _sign(rng: Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _spinning(rng: Generator, time: np.ndarray) -> np.ndarray:
    return make_poses(time, angle=_sign(rng) * rng.uniform(0.08, 0.22) * time)


def _sliding(rng: Generator, time: np.ndarray) -> np.ndarray:
    """Straight on at constant speed, turned back at both ends of a track that is level or nearly so."""
    reach, slope = rng.uniform(26, 36), rng.uniform(-0.5, 0.5)
    along = (rng.uniform(0, 4) + rng.uniform(1.8, 4.0) / reach * time) % 4
    track = reach * (np.abs(along - 2) - 1)
    return make_poses(time, track * math.cos(slope), track * math.sin(slope))


def _bouncing(rng: Generator, time: np.ndarray) -> np.ndarray:
    """Thrown up by the ground again and again."""
    height, along = rng.uniform(34, 56), (rng.uniform(0, 1) + time / rng.uniform(18, 28)) % 1
    return make_poses(time, y=height * (0.5 - 4 * along * (1 - along)))


def _swinging(rng: Generator, time: np.ndarray) -> np.ndarray:
    """A pendulum, hung above the centre."""
    length = rng.uniform(36, 56)
    angle = rng.uniform(0.5, 0.9) * np.sin(random_phase(rng) + random_rate(rng, 20, 34) * time)
    return make_poses(time, length * np.sin(angle), length * (np.cos(angle) - 0.8), -angle)


def _pulsing(rng: Generator, time: np.ndarray) -> np.ndarray:
    wave = np.sin(random_phase(rng) + random_rate(rng, 18, 30) * time)
    return make_poses(time, scale=np.exp(rng.uniform(0.25, 0.42) * wave))


def _circling(rng: Generator, time: np.ndarray) -> np.ndarray:
    radius, angle = rng.uniform(14, 24), random_phase(rng) + _sign(rng) * random_rate(rng, 18, 30) * time
    return make_poses(time, radius * np.cos(angle), radius * np.sin(angle))


MOTIONS: dict[str, Motion] = {
    "spinning": _spinning,
    "sliding": _sliding,
    "bouncing": _bouncing,
    "swinging": _swinging,
    "pulsing": _pulsing,
    "circling": _circling,
}
