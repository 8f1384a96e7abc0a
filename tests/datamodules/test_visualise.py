"""Pictures of streams: colours that stand for known motions, and sheets that hold what they should."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.bitstream import UnreadableVideoError, encode_frames
from datamodules.visualise import color_wheel, draw_streams, motion_colors, residual_colors

GOLDEN = Path(__file__).parent / "bitstream" / "golden"


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


def test_sheet_shows_every_stream():
    figure = draw_streams(GOLDEN / "scroll_160x112_gop12.mp4", gop=1, num_positions=4)
    images = [axis.get_images() for axis in figure.axes]
    assert [len(found) for found in images] == [1] * 5 + [1] * 5 + [0] + [1] * 4
    golden = np.load(GOLDEN / "scroll_160x112_gop12.npz")["gop01_pos00_iframe"]
    np.testing.assert_array_equal(images[0][0].get_array(), golden)


def test_gop_without_p_frames_is_refused(tmp_path):
    encode_frames([np.zeros((32, 32, 3), np.uint8)], tmp_path / "one.mp4")
    with pytest.raises(UnreadableVideoError, match="no P-frame"):
        draw_streams(tmp_path / "one.mp4")
