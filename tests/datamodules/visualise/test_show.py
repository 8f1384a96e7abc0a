"""The command `streamkd show`: pictures and overlays of videos of all kinds, whole or not at all."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.bitstream import CompressedVideo, encode_frames
from datamodules.visualise import overlay
from lightning_modules.cli import main

RATE = Fraction(24000, 1001)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Sixteen frames, an I-frame every five, of a texture that moves to the right."""
    texture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = [np.roll(texture, 2 * number, 1) for number in range(16)]
    encode_frames(frames, tmp_path / "clip.mp4", frame_rate=RATE, gop_size=5)
    return tmp_path / "clip.mp4"


def decoded(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def failing(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["show", *map(str, args)])
    assert exit_.value.code == 1
    return capsys.readouterr().err


def test_picture_is_written_and_named(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(clip), "--gop", "1", "--positions", "2", "--reference", "previous"])
    assert capsys.readouterr() == ("clip_streams.png\n", "")
    with Image.open("clip_streams.png") as picture:
        width, height = picture.size
    assert 600 < width < 1200
    assert 600 < height < 1200
    main(["show", str(clip), "--output", "figures/clip.pdf"])
    assert Path("figures/clip.pdf").read_bytes().startswith(b"%PDF")


def test_overlay_plays_as_the_video_does(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(clip), "--video"])
    assert capsys.readouterr().out == "clip_streams.mp4\n"
    with av.open("clip_streams.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.codec_context.name) == (16, RATE, "h264")
    frames = decoded("clip_streams.mp4")
    iframe = decoded(str(clip))[0].repeat(3, 0).repeat(3, 1)  # 128 pixels wide, magnified by three
    assert np.median(np.abs(panel(frames[0], 0).astype(int) - iframe)) < 3
    assert panel(frames[4], 1)[:, 96:].mean((0, 1)) == pytest.approx([255, 0, 0], abs=8)  # right, as fast as it gets
    assert panel(frames[5], 1).mean((0, 1)) == pytest.approx([255, 255, 255], abs=4)  # the next I-frame


def panel(frame: np.ndarray, number: int) -> np.ndarray:
    """(288, 384, 3), one of three side by side, of an overlay of the clip."""
    top, left = overlay._HEADER + overlay._LABEL, overlay._GAP + number * (3 * 128 + overlay._GAP)
    return frame[top : top + 3 * 96, left : left + 3 * 128]


def test_painted_panels_are_the_streams_pixel_by_pixel(clip: Path) -> None:
    with CompressedVideo(clip) as video:
        painted = list(overlay.draw_overlay(video, gop=1, name="clip", reference="previous"))
        streams = video.read_gop(1, streams=("iframe", "residual"), reference="previous")
    np.testing.assert_array_equal(panel(painted[0], 0), streams.iframe.repeat(3, 0).repeat(3, 1))
    for frame, residual in zip(painted[1:], streams.residual, strict=True):
        expected = np.clip(residual + 128, 0, 255)
        np.testing.assert_array_equal(panel(frame, 2), expected.repeat(3, 0).repeat(3, 1))


def test_overlay_of_one_gop(clip: Path) -> None:
    main(["show", str(clip), "--video", "true", "--gop", "3", "--output", "last.mov"])
    assert len(decoded("last.mov")) == 1


@pytest.mark.parametrize("fixture", ["b_frame_video", "wmv_video"])
def test_what_has_no_usable_vectors_is_shown_from_a_reencoding(
    fixture: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = request.getfixturevalue(fixture)
    main(["show", str(path)])
    out, err = capsys.readouterr()
    assert out == f"{path.stem}_streams.png\n"
    (line,) = err.splitlines()
    assert line.startswith(f"{path}: its vectors cannot be read (")
    assert line.endswith("): shown from a re-encoding")


def test_nothing_is_left_of_an_interrupted_overlay(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint = overlay.OverlayPainter.paint
    painted: list[str] = []

    def interrupted(self: overlay.OverlayPainter, seen: overlay.SeenFrame, caption: str) -> np.ndarray:
        painted.append(caption)
        if len(painted) == 7:
            raise KeyboardInterrupt
        return paint(self, seen, caption)

    monkeypatch.setattr(overlay.OverlayPainter, "paint", interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(["show", str(clip), "--video"])
    assert exit_.value.code == 130
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["clip.mp4"]
    assert painted[0] == "0.00 s   frame 0   GOP 0   I-frame"
    assert painted[6] == "0.25 s   frame 6   GOP 1   P-frame 1"


def test_walk_in_short_runs_sees_the_same(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little fits into memory, frames are those of a whole read."""
    monkeypatch.setattr("datamodules.visualise.walk._RUN_BYTES", 2 * 13 * 128 * 96)
    with CompressedVideo(clip) as video:
        seen = list(overlay.walk(video, [0, 1]))
        whole = [video.read_gop(gop, streams=("rgb", "mv", "residual")) for gop in (0, 1)]
    assert [(frame.gop, frame.position) for frame in seen] == [(gop, at) for gop in (0, 1) for at in range(5)]
    for frame in seen:
        gop = whole[frame.gop]
        np.testing.assert_array_equal(frame.rgb, gop.rgb[frame.position])
        np.testing.assert_array_equal(frame.mv, gop.mv[frame.position - 1] if frame.position else 0 * gop.mv[0])
        np.testing.assert_array_equal(
            frame.residual, gop.residual[frame.position - 1] if frame.position else 0 * gop.residual[0]
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "path"),
        (["none.mp4"], "there is no such file"),
        (["."], "it is a folder"),
        (["clip.mp4", "--gop", 4], "--gop: expected a number from 0 to 3, got 4"),
        (["clip.mp4", "--gop", 3], "clip.mp4: GOP 3 has an I-frame only"),
        (["clip.mp4", "--positions", 0], "--positions): expected 1 P-frame or more to show, got 0"),
        (["clip.mp4", "--output", "x.mp4"], "--video makes an .mp4"),
        (["clip.mp4", "--output", "x.mp3", "--video"], "one of .mp4, .mov"),
        (["clip.mp4", "--output", "./clip.mp4", "--video"], "that is the video itself"),
        (["clip.mp4", "--reference", "first"], "reference"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("clip")
def test_errors_are_one_line_and_write_nothing(
    capsys: pytest.CaptureFixture[str], options: list[object], said: str
) -> None:
    before = Path("clip.mp4").read_bytes()
    (line,) = failing(capsys, *options).splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert Path("clip.mp4").read_bytes() == before
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["clip.mp4"]


def test_one_frame_is_refused_by_the_users_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode_frames([np.zeros((32, 32, 3), np.uint8)], tmp_path / "one.mp4")
    assert failing(capsys, "one.mp4") == (
        "error: one.mp4: re-encoded, it has no P-frame, so no motion vectors; leave it out of the list\n"
    )
