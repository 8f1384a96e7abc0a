import os
from pathlib import Path

import pytest

from datamodules.annotations import find_videos
from datamodules.annotations.video_files import VideoFolder


def test_find_videos_searches_folders_and_keeps_what_has_none(tmp_path, touch):
    touch("a/2.mp4", "a/b/1.MKV", "a/x.txt", "empty/readme", "raw.264")
    paths = [str(tmp_path / name) for name in ("raw.264", "a", "empty", "gone.mp4")]
    names = [str(Path(p).relative_to(tmp_path)) for p in find_videos(paths)]
    assert names == ["raw.264", "a/2.mp4", "a/b/1.MKV", "empty", "gone.mp4"]


def test_links_to_folders_are_followed(tmp_path, touch):
    touch("disk2/run/a.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/run").symlink_to(tmp_path / "disk2/run")
    assert find_videos([str(tmp_path / "data")]) == [str(tmp_path / "data/run/a.mp4")]


class TestVideoFolder:
    def test_any_depth_and_any_extension(self, tmp_path, touch):
        touch("a.mp4", "deep/er/b.AVI", "c.txt", ".d.mp4")
        folder = VideoFolder(tmp_path)
        assert folder.find(["a"]) == str(tmp_path / "a.mp4")
        assert folder.find(["v_b", "b"]) == str(tmp_path / "deep/er/b.AVI")
        assert folder.find(["er/b"]) == str(tmp_path / "deep/er/b.AVI")
        assert folder.find(["other/b"]) is None
        assert folder.find(["c"]) is None
        assert folder.find(["d"]) is None

    def test_folders_tell_apart_videos_of_one_name(self, tmp_path, touch):
        touch("x/run/1.mp4", "x/jump/1.mp4")
        folder = VideoFolder(tmp_path)
        assert folder.find(["run/1"]) == str(tmp_path / "x/run/1.mp4")
        assert folder.find(["jump/1"]) == str(tmp_path / "x/jump/1.mp4")

    def test_two_files_of_one_video(self, tmp_path, touch):
        touch("avi/run/1.avi", "mp4/run/1.mp4")
        with pytest.raises(ValueError, match=r"1\.avi and .*1\.mp4: expected one file .*config key: videos"):
            VideoFolder(tmp_path).find(["run/1"])
        assert VideoFolder(tmp_path / "mp4").find(["run/1"]) == str(tmp_path / "mp4/run/1.mp4")

    def test_every_folder_is_read_once_however_many_videos_are_looked_for(self, tmp_path, touch, monkeypatch):
        touch("run/1.avi", "jump/2.avi")
        read: list[str] = []
        scandir = os.scandir
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path: read.append(str(path)) or scandir(path))
            folder = VideoFolder(tmp_path)
            assert [folder.find([name]) is not None for name in ("1", "2", "3") * 10] == [True, True, False] * 10
        assert sorted(read) == sorted([str(tmp_path), str(tmp_path / "run"), str(tmp_path / "jump")])

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone: no such folder \(config key: videos\)"):
            VideoFolder(tmp_path / "gone").find(["a"])
