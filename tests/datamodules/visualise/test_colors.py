"""Colours that stand for known motions."""

import numpy as np
import pytest

from datamodules.visualise.colors import color_wheel, motion_colors, motion_scale, residual_colors


@pytest.mark.parametrize(
    ("mv", "color"),
    [
        ((0, 0), (255, 255, 255)),  # rest is white
        ((10, 0), (255, 0, 0)),  # hue 0: right
        ((-10, 0), (0, 255, 255)),  # hue 180: left
        ((20, 0), (255, 0, 0)),  # beyond full length
        ((5, 0), (255, 127, 127)),  # half length, half saturation
        ((0, 10), (127, 255, 0)),  # hue 90: down
    ],
)
def test_motion_colors(mv, color):
    assert motion_colors(np.array([[mv]], np.int16), max_length=10)[0, 0].tolist() == pytest.approx(color, abs=1)


def test_color_wheel_is_its_own_legend():
    wheel = color_wheel(101)
    assert wheel[50, 50].tolist() == [255, 255, 255]
    assert wheel[50, 100].tolist() == [255, 0, 0]
    assert wheel[0, 0].tolist() == [255, 255, 255]


def test_residual_colors_clip():
    assert residual_colors(np.array([-255, -128, 0, 127, 255], np.int16)).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("lengths", "scale"),
    [
        ([0] * 100, 4),  # nothing moves
        ([0] * 99 + [1], 4),  # a step of the search is not strong motion
        ([0] * 900 + [30] * 100, 30),  # what rests does not count
        ([30] * 990 + [400] * 10, 30),  # nor do a few far throws
        ([9.5] * 100, 10),  # whole pixels
    ],
)
def test_scale_is_that_of_what_moves(lengths, scale):
    field = np.stack([np.zeros(len(lengths)), lengths], -1)
    assert motion_scale([field[:50], field[50:]]) == scale
