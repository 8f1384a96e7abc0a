"""Videos with words on every frame: what is drawn, where, and that all else stays as it is."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import UnreadableVideoError, encode_frames
from datamodules.visualise.annotate import Line, annotate, draw_label

GREEN = (40, 180, 60)
LINES = [Line("0.75  walking", 0.75), Line("0.20  running", 0.2), Line("left at mv/layer2")]


def green_video(path: Path, *, size: tuple[int, int], num_frames: int = 5) -> str:
    frames = [np.full((size[1], size[0], 3), GREEN, np.uint8)] * num_frames
    encode_frames(frames, path, frame_rate=Fraction(24000, 1001))
    return str(path)


def decoded(path: str | Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_label_lies_on_every_frame_and_nowhere_else(tmp_path: Path) -> None:
    source, target = green_video(tmp_path / "a.mp4", size=(640, 360)), tmp_path / "out" / "a.mp4"
    annotate(source, target, LINES)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.codec_context.name) == (5, Fraction(24000, 1001), "h264")
        assert (stream.width, stream.height) == (640, 360)
    row, plain = 16, decoded(source)[0].astype(int)
    for frame in decoded(target):
        corner = frame[: 3 * row, : 20 * row].astype(int)
        assert np.abs(frame[4 * row :] - plain[4 * row :]).max() <= 6
        assert np.abs(frame[:, 21 * row :] - plain[:, 21 * row :]).max() <= 6
        for number in range(3):
            assert corner[number * row : (number + 1) * row].min(axis=2).max() > 220, "white letters in every line"
        # The end of the longest bar, between lines of words.
        assert corner[3, int(0.74 * 20 * row)].sum() > corner[3, int(0.78 * 20 * row)].sum() + 60
        assert corner[row + 3, int(0.78 * 20 * row)].sum() < 0.6 * plain[0, 0].sum()


def test_small_videos_are_magnified(tmp_path: Path) -> None:
    source = green_video(tmp_path / "a.mp4", size=(64, 48))
    annotate(source, tmp_path / "b.mp4", LINES)
    assert {frame.shape for frame in decoded(tmp_path / "b.mp4")} == {(240, 320, 3)}


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080), (320, 4), (2, 320)])
def test_a_label_fits_into_the_picture(size: tuple[int, int]) -> None:
    label = draw_label([*LINES, Line("a name that is much longer than any picture is wide " * 9, 1.0)], size)
    height, width = label.luma.shape
    assert width <= size[0]
    assert height <= size[1]
    assert (height % 2, width % 2) == (0, 0)
    assert label.opacity.shape == label.luma.shape
    planes = np.full((size[1] * 3 // 2, size[0]), 200, np.uint8)
    label.paint(planes)
    grey = 16 + 219 * (label.opacity - 0.6) / 0.4  # opaque as far as it is bright
    expected = label.opacity * grey + (1 - label.opacity) * 200
    np.testing.assert_allclose(planes[:height, :width], expected, atol=1)
    assert (planes[height : size[1]] == 200).all()


def test_mathematics_in_names_is_no_mathematics() -> None:
    assert draw_label([Line("$\\nothing{ $", 0.5)], (320, 240)).luma.max() > 200


def test_what_is_no_video_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UnreadableVideoError):
        annotate(str(tmp_path / "bad.mp4"), tmp_path / "out.mp4", LINES)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.mp4"]


def test_the_video_itself_is_refused(tmp_path: Path) -> None:
    source = green_video(tmp_path / "a.mp4", size=(64, 48))
    before = Path(source).read_bytes()
    with pytest.raises(ValueError, match="that is the video itself"):
        annotate(source, tmp_path / "a.mp4", LINES)
    assert Path(source).read_bytes() == before
