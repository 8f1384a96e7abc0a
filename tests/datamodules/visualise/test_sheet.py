"""Sheets hold what they should, where they should."""

import re
from pathlib import Path

import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, encode_frames
from datamodules.visualise import draw_streams

GOLDEN = Path(__file__).parents[1] / "bitstream" / "golden" / "scroll_160x112_gop12"


def pictures(figure):
    """By row and column, as a person sees them: all pictures of the sheet but the legends."""
    panels = [axis for axis in figure.axes if axis.get_images() and axis.axison]
    rows = sorted({round(axis.get_position().y0, 2) for axis in panels}, reverse=True)
    by_row = [[axis for axis in panels if round(axis.get_position().y0, 2) == row] for row in rows]
    return [
        [np.asarray(axis.get_images()[0].get_array()) for axis in sorted(row, key=lambda axis: axis.get_position().x0)]
        for row in by_row
    ]


def test_sheet_shows_every_stream():
    golden = np.load(f"{GOLDEN}.npz")
    with CompressedVideo(f"{GOLDEN}.mp4") as video:
        figure = draw_streams(video, num_positions=4)
    frames, motion, residual = pictures(figure)
    assert [len(frames), len(motion), len(residual)] == [5, 4, 4]
    np.testing.assert_array_equal(frames[0], golden["gop00_pos00_iframe"])
    for column, position in ((0, "pos01"), (3, "pos11")):
        moving = golden[f"gop00_{position}_mv_accumulated"].any(-1)
        np.testing.assert_array_equal((motion[column] < 255).any(-1), moving)
        expected = np.clip(golden[f"gop00_{position}_residual_accumulated"] + 128, 0, 255)
        np.testing.assert_array_equal(residual[column], expected)
    assert {"I-frame", "P-frame 1", "P-frame 4", "P-frame 8", "P-frame 11", "frame", "motion", "residual"} <= {
        text.get_text() for text in figure.texts
    }


@pytest.mark.parametrize(
    ("step", "hue"),
    [((3, 0), [255, 0, 0]), ((-3, 0), [0, 255, 255]), ((0, 3), [127, 255, 0]), ((0, -3), [127, 0, 255])],
)
def test_known_motion_has_its_color(tmp_path, step, hue):
    """Right is red, left is cyan, down is lime, up is violet."""
    texture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    frames = [np.roll(texture, (number * step[1], number * step[0]), (0, 1)) for number in range(6)]
    encode_frames(frames, tmp_path / "moving.mp4")
    with CompressedVideo(tmp_path / "moving.mp4") as video:
        figure = draw_streams(video, num_positions=1)
    (color,) = {tuple(pixel) for pixel in pictures(figure)[1][0][32:64, 32:96].reshape(-1, 3).tolist()}
    assert color == pytest.approx(hue, abs=1)
    (rim,) = [text.get_text() for axis in figure.axes for text in axis.texts if "rim" in text.get_text()]
    assert int(re.findall(r"\d+", rim)[0]) == 15  # the fifth P-frame


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((64, 64), 3, 4), ((32, 160), 4, 3), ((160, 16), 3, 4)],
    ids=["square", "wide", "tall"],
)
def test_wide_pictures_go_down(tmp_path, size, rows, columns):
    encode_frames([np.zeros((*size, 3), np.uint8)] * 4, tmp_path / "still.mp4")
    with CompressedVideo(tmp_path / "still.mp4") as video:
        figure = draw_streams(video, num_positions=9)
    shown = pictures(figure)
    assert (len(shown), max(map(len, shown))) == (rows, columns)
    assert "rim: 4 px" in [text.get_text() for axis in figure.axes for text in axis.texts]


def test_rotated_videos_stand_upright():
    with CompressedVideo(f"{GOLDEN}.mp4") as video:
        lying = pictures(draw_streams(video, num_positions=1))
        object.__setattr__(video.index, "rotation", 90)
        upright = pictures(draw_streams(video, num_positions=1))
    np.testing.assert_array_equal(upright[0][0], np.rot90(lying[0][0]))
    np.testing.assert_array_equal(upright[2][0], np.rot90(lying[2][0]))


def test_gop_without_p_frames_is_refused(tmp_path):
    encode_frames([np.zeros((32, 32, 3), np.uint8)], tmp_path / "one.mp4")
    with CompressedVideo(tmp_path / "one.mp4") as video, pytest.raises(ValueError, match="I-frame only"):
        draw_streams(video)
