"""Encoded files against what went in: counts, times, sizes and picture types, by a plain decoder."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream.encode import VideoWriter, encode_frames, reencode
from datamodules.bitstream.errors import UnreadableVideoError

CODECS = ("mpeg4", "h264")


def moving_texture(num_frames: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    plane = np.random.default_rng(0).integers(0, 256, (height + num_frames, width + num_frames, 3), np.uint8)
    return [np.ascontiguousarray(plane[k : k + height, k : k + width]) for k in range(num_frames)]


def cut(num_frames: int) -> list[np.ndarray]:
    """A scene cut at every third frame."""
    scenes = np.random.default_rng(1).integers(0, 256, (num_frames, 48, 64, 3), np.uint8)
    return [scenes[k // 3] for k in range(num_frames)]


def write_uneven(path: Path, ticks: list[int], time_base: Fraction) -> None:
    with VideoWriter(path, (64, 48), time_base, codec="h264") as writer:
        for tick, frame in zip(ticks, moving_texture(len(ticks)), strict=True):
            writer.write(av.VideoFrame.from_ndarray(frame, format="rgb24"), tick)


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(container.streams.video[0]))


def times(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in decoded(path)]


def types(path: Path) -> str:
    return "".join(av.video.frame.PictureType(frame.pict_type).name for frame in decoded(path))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with B-frames, an audio track, and a GOP of 250."""
    path = tmp_path_factory.mktemp("source") / "source.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for frame in moving_texture(30):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("gop_size", [5, 12])
def test_frames_come_back_in_gops_of_the_given_length(tmp_path: Path, codec: str, gop_size: int) -> None:
    encode_frames(cut(26), tmp_path / "a.mp4", codec=codec, gop_size=gop_size)
    assert types(tmp_path / "a.mp4") == "".join("I" if k % gop_size == 0 else "P" for k in range(26))


@pytest.mark.parametrize("codec", CODECS)
def test_pixels_and_times_come_back(tmp_path: Path, codec: str) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp, ramp[::-1], ramp[:48, None]), axis=-1)
    encode_frames([frame] * 5, tmp_path / "a.mp4", codec=codec, frame_rate=30000 / 1001)
    back = decoded(tmp_path / "a.mp4")
    rgb = back[4].to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601")
    assert np.abs(rgb.astype(int) - frame).mean() < 4
    assert times(tmp_path / "a.mp4") == [k * Fraction(1001, 30000) for k in range(5)]


@pytest.mark.parametrize("codec", CODECS)
def test_quality_is_obeyed(tmp_path: Path, codec: str) -> None:
    for quality in (2, 20):
        encode_frames(moving_texture(12), tmp_path / f"{quality}.mp4", codec=codec, quality=quality)
    sizes = [(tmp_path / f"{quality}.mp4").stat().st_size for quality in (2, 20)]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("codec", CODECS)
def test_equal_frames_give_equal_files(tmp_path: Path, codec: str) -> None:
    for name in ("a.mp4", "b.mp4"):
        encode_frames(moving_texture(13), tmp_path / name, codec=codec)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_reencoding_keeps_count_and_times_and_drops_b_frames(tmp_path: Path, codec: str, source: Path) -> None:
    assert "B" in types(source)
    seen: list[tuple[int, int]] = []
    reencode(source, tmp_path / "a.mp4", codec=codec, progress=lambda *state: seen.append(state))
    assert types(tmp_path / "a.mp4") == "".join("I" if k % 12 == 0 else "P" for k in range(30))
    assert times(tmp_path / "a.mp4") == times(source)
    assert seen == [(k, 30) for k in range(1, 31)]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("codec", CODECS)
def test_reencoding_keeps_variable_frame_rates(tmp_path: Path, codec: str) -> None:
    write_uneven(tmp_path / "vfr.mp4", [15, 18, 27, 30, 60, 63, 999], Fraction(1001, 90000))
    reencode(tmp_path / "vfr.mp4", tmp_path / "a.mp4", codec=codec)
    assert times(tmp_path / "a.mp4") == times(tmp_path / "vfr.mp4")
    assert times(tmp_path / "a.mp4")[0] == 15 * Fraction(1001, 90000)


def test_times_too_fine_for_mpeg4_are_rounded_by_8_microseconds_at_most(tmp_path: Path) -> None:
    write_uneven(tmp_path / "fine.mp4", [0, 3_001, 6_007, 9_013, 12_011], Fraction(1, 90_001))
    reencode(tmp_path / "fine.mp4", tmp_path / "a.mp4")
    errors = [abs(a - b) for a, b in zip(times(tmp_path / "a.mp4"), times(tmp_path / "fine.mp4"), strict=True)]
    assert 0 < max(errors) <= Fraction(1, 2 * 65_535)
    reencode(tmp_path / "fine.mp4", tmp_path / "b.mp4", codec="h264")
    assert times(tmp_path / "b.mp4") == times(tmp_path / "fine.mp4")


def test_avi_with_b_frames_gets_evenly_spaced_times(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "b.avi"), "w") as container:
        video = container.add_stream("mpeg4", rate=25, options={"bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_texture(14):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    reencode(tmp_path / "b.avi", tmp_path / "a.mp4")
    assert times(tmp_path / "a.mp4") == [Fraction(k, 25) for k in range(14)]


def test_reencoding_scales(tmp_path: Path, source: Path) -> None:
    reencode(source, tmp_path / "a.mp4", size=(32, 26))
    assert (decoded(tmp_path / "a.mp4")[0].width, decoded(tmp_path / "a.mp4")[0].height) == (32, 26)


def test_reencoding_in_place(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(source.read_bytes())
    reencode(path, path)
    assert types(path).count("I") == 3
    assert times(path) == times(source)


def test_odd_sizes_are_refused_or_made_even(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width and height"):
        encode_frames(moving_texture(2, width=63), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 63, 47, "yuv420p"
        for frame in moving_texture(3, height=47, width=63):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    reencode(tmp_path / "odd.mkv", tmp_path / "b.mp4")
    assert (decoded(tmp_path / "b.mp4")[0].width, decoded(tmp_path / "b.mp4")[0].height) == (62, 46)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 5])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException], after: int) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from moving_texture(after)
        raise error

    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(error):
        encode_frames(failing(), tmp_path / "a.mp4")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.mp4", b"before")]


def test_a_failing_progress_leaves_nothing(tmp_path: Path, source: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reencode(source, tmp_path / "a.mp4", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_sources_are_named(tmp_path: Path, source: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "half.mp4").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    for name in ("text.mp4", "half.mp4", "missing.mp4"):
        with pytest.raises(UnreadableVideoError, match=name):
            reencode(tmp_path / name, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_a_codec_without_decoder_is_refused(tmp_path: Path) -> None:
    encode_frames(moving_texture(2), tmp_path / "known.mp4")
    data = (tmp_path / "known.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(UnreadableVideoError, match=r"clip\.mp4: "):
        reencode(tmp_path / "clip.mp4", tmp_path / "out.mp4")


def test_pictures_larger_than_mpeg4_stores_are_refused(tmp_path: Path) -> None:
    encode_frames([np.zeros((16, 8_192, 3), np.uint8)], tmp_path / "wide.mp4", codec="h264")
    with pytest.raises(UnreadableVideoError, match="8192x16, mpeg4 takes sides of 2 to 8191 pixels"):
        reencode(tmp_path / "wide.mp4", tmp_path / "out.mp4")
    reencode(tmp_path / "wide.mp4", tmp_path / "out.mp4", size=(8_190, 16))
    assert decoded(tmp_path / "out.mp4")[0].width == 8_190


def test_bad_arguments_are_explained(tmp_path: Path) -> None:
    frames = moving_texture(2)
    with pytest.raises(ValueError, match="at least one frame"):
        encode_frames([], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="uint8"):
        encode_frames([frames[0].astype(np.float32)], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="one shape"):
        encode_frames([frames[0], frames[0][:-2]], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="quantiser from 1"):
        encode_frames(frames, tmp_path / "a.mp4", quality=0)
    with pytest.raises(ValueError, match=r"\.mp4"):
        encode_frames(frames, tmp_path / "a.avi")
    assert list(tmp_path.iterdir()) == []
