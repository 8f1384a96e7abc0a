"""decord against a plain decode by PyAV, frame by frame and in any order; and what is refused."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import UnreadableVideoError, build_index, encode_frames
from datamodules.decord_video import DecordVideo, import_decord

pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows alone")

TICKS = np.cumsum([3, 40, 7, 200, 33, 33, 1000, 40, 5] * 3).tolist()[:26]
# name: file name, options of `encode_theirs`
READ: dict[str, tuple[str, dict]] = {
    "MPEG-4 in AVI": ("clip.avi", {"codec": "mpeg4", "b_frames": 0}),
    "H.264 with B-frames": ("clip.mp4", {"codec": "libx264", "b_frames": 3, "options": {"g": "9"}}),
    "H.264 with B-frames at a variable rate": (
        "clip.mkv",
        {"codec": "libx264", "b_frames": 2, "options": {"g": "8"}, "ticks": TICKS},
    ),
    "H.264 at a variable rate": ("clip.mp4", {"codec": "libx264", "b_frames": 0, "ticks": TICKS}),
    "BT.709": ("clip.mp4", {"codec": "libx264", "b_frames": 0, "options": {"x264-params": "colormatrix=bt709"}}),
    "full range": ("clip.mp4", {"codec": "libx264", "b_frames": 0, "options": {"x264-params": "fullrange=on"}}),
    "HEVC": ("clip.mkv", {"codec": "libx265", "b_frames": 2, "options": {"x265-params": "log-level=none:open-gop=0"}}),
    "VP9": ("clip.webm", {"codec": "libvpx-vp9", "b_frames": 0, "options": {"g": "9"}}),
    "a name with a colon": ("http:clip.mp4", {"codec": "mpeg4", "b_frames": 0}),
}
OPEN_GOPS = {"x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=8:scenecut=0"}
# name: file name, options of `encode_theirs`, what the refusal says
REFUSED: dict[str, tuple[str, dict, str]] = {
    "B-frames in AVI": ("clip.avi", {"codec": "mpeg4", "b_frames": 2}, "no timestamps"),
    "H.264 in AVI": ("clip.avi", {"codec": "libx264", "b_frames": 0, "options": {"g": "8"}}, "no timestamps"),
    "MPEG-4 with open GOPs": ("clip.mp4", {"codec": "mpeg4", "b_frames": 2}, "open GOPs"),
    "H.264 with open GOPs": ("clip.mp4", {"codec": "libx264", "b_frames": 2, "options": OPEN_GOPS}, "open GOPs"),
    "intra refresh": (
        "clip.mp4",
        {"codec": "libx264", "b_frames": 0, "options": {"intra-refresh": "1", "g": "8"}},
        "open GOPs",
    ),
    "a transport stream": ("clip.ts", {"codec": "mpeg2video", "b_frames": 0}, "transport streams"),
    "AV1": ("clip.mp4", {"codec": "libsvtav1", "b_frames": 0}, r"decord cannot read it \(Check failed: st_nb >= 0"),
}


def plain_decode(path: Path) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, in the order shown, as tagged; as coded, not turned."""
    with av.open(f"file:{path}") as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def in_any_order(path: Path, seed: int = 0) -> dict[int, np.ndarray]:
    """Frames by number through decord: all of some GOPs, one at a time, or several, backwards and forwards."""
    rng, index = np.random.default_rng(seed), build_index(path)
    with DecordVideo(path, index) as video:
        found = {}
        for number in rng.permutation(np.repeat(np.arange(len(index.gops)), 2)):
            gop = index.gops[number]
            positions = rng.permutation(gop.length)[: 1 + rng.integers(5)].tolist()
            for position, frames in zip(
                positions, video.read_positions(number, positions, streams=("rgb",)), strict=True
            ):
                found[gop.start + position] = frames.rgb
    return found


def assert_same_frames(path: Path, *, degrees: int = 0, most: int = 1, mean: float = 0.01) -> None:
    """`most` and `mean`: grey levels by which pixels may differ."""
    truth = plain_decode(path)
    for number, pixels in in_any_order(path).items():
        expected = np.rot90(truth[number], degrees // 90)
        difference = np.abs(pixels.astype(int) - expected)
        assert difference.max() <= most, number
        assert difference.mean() <= mean, number


@pytest.mark.parametrize("name", READ)
def test_frames_are_those_of_a_plain_decode(name: str, tmp_path: Path, encode_theirs: Callable[..., None]) -> None:
    file, options = READ[name]
    encode_theirs(tmp_path / file, **options)
    assert_same_frames(tmp_path / file)


@pytest.mark.parametrize(
    ("codec", "height", "width", "pixel_format"), [("mpeg4", 47, 63, "yuv420p"), ("libx265", 48, 64, "yuv420p10le")]
)
def test_what_differs_where_chroma_is_interpolated_otherwise(
    tmp_path: Path, encode_theirs: Callable[..., None], codec: str, height: int, width: int, pixel_format: str
) -> None:
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([3 * x, 5 * y, 128 + 40 * np.sin((x + y) / 9)], -1).astype(np.uint8)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    encode_theirs(
        tmp_path / "clip.mp4",
        codec=codec,
        b_frames=0,
        options=options,
        frames=[smooth] * 3,
        pixel_format=pixel_format,
    )
    assert_same_frames(tmp_path / "clip.mp4", most=16, mean=3)


def test_relative_names_may_look_like_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode_frames([np.full((48, 64, 3), 90, np.uint8)] * 3, "http:clip.mp4")
    assert_same_frames(Path("http:clip.mp4"))


@pytest.mark.parametrize("name", REFUSED)
def test_where_decord_would_give_others_it_is_refused(
    name: str, tmp_path: Path, encode_theirs: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    file, options, reason = REFUSED[name]
    encode_theirs(tmp_path / file, **options)
    with DecordVideo(tmp_path / file, build_index(tmp_path / file)) as video:
        capfd.readouterr()
        with pytest.raises(UnreadableVideoError, match=reason) as caught:
            video.read_positions(0, [0], streams=("rgb",))
    assert caught.value.path == str(tmp_path / file)
    assert "`backend: pyav`" in caught.value.remedy
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", ""), "decord says nothing of its own"


def test_the_refusals_are_needed(tmp_path: Path, encode_theirs: Callable[..., None]) -> None:
    """Without them decord gives another frame and says nothing."""
    decord = import_decord()
    for name in ("B-frames in AVI", "MPEG-4 with open GOPs", "intra refresh", "a transport stream"):
        file, options, _ = REFUSED[name]
        encode_theirs(tmp_path / file, **options)
        truth, reader = plain_decode(tmp_path / file), decord.VideoReader(str(tmp_path / file), num_threads=1)
        wrong = [n for n in range(26) if np.abs(reader.get_batch([25 - n]).asnumpy()[0] - truth[25 - n]).max() > 1]
        assert wrong, name


def test_a_file_that_is_damaged_in_its_container_is_refused(tmp_path: Path, encode_theirs: Callable[..., None]) -> None:
    path = tmp_path / "clip.mp4"
    encode_theirs(path, codec="libx264", b_frames=0)
    index = build_index(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UnreadableVideoError, match="decord cannot read it"):
        DecordVideo(path, index).read_positions(0, [0], streams=("rgb",))


@pytest.mark.parametrize("width", [24, 48, 72])
def test_widths_at_which_decord_takes_padding_for_a_channel_are_refused(tmp_path: Path, width: int) -> None:
    path = tmp_path / "clip.mp4"
    encode_frames([np.zeros((48, width, 3), np.uint8)] * 2, path)
    with pytest.raises(UnreadableVideoError, match="size must exactly match"):
        DecordVideo(path, build_index(path)).read_positions(0, [0], streams=("rgb",))


def test_reading_can_begin_anew_and_elsewhere(video_root: Path) -> None:
    path = video_root / "train/run/0.mp4"
    video = DecordVideo(path, build_index(path))
    (first,) = video.read_positions(1, [3], streams=("rgb",))
    other = pickle.loads(pickle.dumps(video))
    video.close()
    for reader in (video, other):
        np.testing.assert_array_equal(reader.read_positions(1, [3], streams=("rgb",))[0].rgb, first.rgb)
        reader.close()
    assert not [link for link in os.listdir("/proc/self/fd") if _target(link) == str(path)], "files are closed"


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


@pytest.mark.parametrize("options", [{"streams": ("mv",)}, {"streams": ("rgb",), "colorspace": "bt601"}])
def test_other_streams_are_a_mistake(video_root: Path, options: dict) -> None:
    path = video_root / "train/run/0.mp4"
    with pytest.raises(ValueError, match="decord: expected stream 'rgb' in colorspace 'tagged'"):
        DecordVideo(path, build_index(path)).read_positions(0, [1], **options)


def test_a_missing_package_is_named_with_the_machines_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package decord.* x86-64 Linux and Windows .*backend: pyav"
    ):
        import_decord()


SAME = (
    "R6llTwEh07w.mp4",
    "RATRACE_wave_f_nm_np1_fr_goo_37.gop12.mp4",
    "mma_demo.mp4",
    "v_SoccerJuggling_g24_c01.avi",
)


@pytest.mark.parametrize("name", SAME)
def test_real_clips(shared_clips: Path, name: str) -> None:
    assert_same_frames(shared_clips / name)


def test_a_real_clip_that_stands_on_its_side(shared_clips: Path) -> None:
    path = shared_clips / "nasa_rot.mp4"
    assert_same_frames(path, degrees=build_index(path).rotation)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "it counts 73 frames where there are 72"),
        ("hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", "no timestamps"),
        ("corrupted.mp4", "it counts 50 frames where there are 49"),
    ],
)
def test_real_clips_that_decord_misnumbers(shared_clips: Path, name: str, reason: str) -> None:
    path = shared_clips / name
    with pytest.raises(UnreadableVideoError, match=reason):
        DecordVideo(path, build_index(path)).read_positions(0, [0], streams=("rgb",))


def test_all_of_ut_interaction_is_refused(shared_data: Path) -> None:
    """Packed B-frames in AVI: decord is one or two frames behind."""
    for path in sorted((shared_data / "ut_interaction").glob("*/*_seq0[13]_*.avi")):
        with pytest.raises(UnreadableVideoError, match="decord would give wrong frames"):
            DecordVideo(path, build_index(path)).read_positions(0, [0], streams=("rgb",))
