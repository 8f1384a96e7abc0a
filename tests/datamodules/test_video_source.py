import os

import av
import numpy as np
import pytest

from datamodules import video_source
from datamodules.bitstream import UnreadableVideoError, build_index, encode_frames
from datamodules.index_cache import IndexCache
from datamodules.video_source import ReencodeCache, VideoSource, default_reencode_dir


def source(streams, stand_ins=None):
    return VideoSource(tuple(streams), IndexCache(), stand_ins)


def test_readable_videos_are_opened_as_they_are(video_root, tmp_path):
    path = str(video_root / "train/run/0.mp4")
    with source(["mv", "residual", "rgb"], ReencodeCache(str(tmp_path / "re"))).open(path) as video:
        assert video.path == path
    assert not (tmp_path / "re").exists()


def test_plain_frames_of_b_frame_videos_need_no_stand_in(b_frame_video):
    with source(["rgb"]).open(str(b_frame_video)) as video:
        assert video.path == str(b_frame_video)


@pytest.mark.parametrize("stream", ["mv", "residual"])
def test_b_frames_need_a_stand_in(b_frame_video, tmp_path, stream):
    with pytest.raises(UnreadableVideoError, match="reencode_dir in the config"):
        source([stream]).open(str(b_frame_video))
    with source([stream], ReencodeCache(str(tmp_path / "re"))).open(str(b_frame_video)) as video:
        assert video.path != str(b_frame_video)
        assert getattr(video.read(gop=0, position=1, streams=(stream,)), stream).shape[:2] == (
            video.height,
            video.width,
        )


def test_plain_frames_of_a_stand_in_are_those_of_the_original(b_frame_video, tmp_path):
    with source(["rgb", "mv"], ReencodeCache(str(tmp_path / "re"))).open(str(b_frame_video)) as video:
        frames = np.concatenate([video.read_gop(gop, streams=("rgb",)).rgb for gop in range(len(video.gops))])
    with av.open(str(b_frame_video)) as container:
        originals = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(frames.astype(int) - originals).mean() < 3


def test_one_frame_has_no_vectors_re_encoded_either(tmp_path):
    path = tmp_path / "still.mp4"
    encode_frames([np.zeros((64, 64, 3), np.uint8)], path)
    with pytest.raises(UnreadableVideoError, match="re-encoded, it has no P-frame") as error:
        source(["iframe", "mv"], ReencodeCache(str(tmp_path / "re"))).open(str(path))
    assert error.value.path == str(path)


def test_names_as_long_as_file_systems_allow(b_frame_video, tmp_path):
    path = b_frame_video.rename(tmp_path / f"{'é' * 125}.mp4")
    with source(["mv"], ReencodeCache(str(tmp_path / "re"))).open(str(path)) as video:
        assert video.read(gop=0, position=1, streams=("mv",)).mv is not None


@pytest.mark.parametrize("fixture", ["b_frame_video", "wmv_video"])
def test_iframes_never_need_a_stand_in(request, tmp_path, fixture):
    path = str(request.getfixturevalue(fixture))
    with source(["iframe"], ReencodeCache(str(tmp_path / "re"))).open(path) as video:
        assert video.path == path
        assert video.read(gop=0, streams=("iframe",)).iframe is not None
    assert not (tmp_path / "re").exists()


def test_a_damaged_video_that_needs_a_stand_in_is_listed_under_its_own_name(b_frame_video, tmp_path):
    data = b_frame_video.read_bytes()
    start = data.index(b"mdat") + 4
    b_frame_video.write_bytes(data[:start] + bytes(2000) + data[start + 2000 :])
    with pytest.raises(UnreadableVideoError) as error:
        source(["mv"], ReencodeCache(str(tmp_path / "re"))).open(str(b_frame_video))
    assert error.value.path == str(b_frame_video)
    assert not list(tmp_path.glob("re/*"))


def test_stand_ins_are_made_once_and_shared(b_frame_video, tmp_path, count_calls):
    calls = count_calls(video_source, "reencode")
    before = b_frame_video.read_bytes()
    for _ in range(2):  # two processes
        stand_ins = ReencodeCache(str(tmp_path / "re"))
        with source(["mv", "residual"], stand_ins).open(str(b_frame_video)) as video:
            assert video.num_frames == build_index(b_frame_video).num_frames
            assert video.read(gop=0, position=1, streams=("mv",)).mv is not None
    assert len(calls) == 1
    assert b_frame_video.read_bytes() == before


def test_a_changed_original_gets_another_stand_in(b_frame_video, tmp_path):
    stand_ins = ReencodeCache(str(tmp_path / "re"))
    first = stand_ins.file_of(str(b_frame_video))
    os.utime(b_frame_video, ns=(5, 5))
    assert stand_ins.file_of(str(b_frame_video)) != first


def test_folders_and_missing_files_say_so(tmp_path):
    with pytest.raises(UnreadableVideoError, match="a folder without video files"):
        source(["iframe"]).open(str(tmp_path))
    with pytest.raises(UnreadableVideoError, match="no such file"):
        source(["iframe"]).open(str(tmp_path / "gone.mp4"))


def test_default_folder_is_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_reencode_dir() == "/cache/streamkd/reencoded"
