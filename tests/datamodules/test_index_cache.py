import dataclasses
import os
import pickle
from multiprocessing import get_context

import numpy as np
import pytest

from datamodules import index_cache
from datamodules.bitstream import UnreadableVideoError, build_index
from datamodules.index_cache import IndexCache


@pytest.fixture
def video(video_root):
    return str(video_root / "train/run/0.mp4")


@pytest.fixture
def builds(count_calls):
    return count_calls(index_cache, "build_index")


def assert_same(ours, theirs):
    for field in dataclasses.fields(ours):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)
    assert ours.gops == theirs.gops


def test_disk_gives_back_the_same_index(tmp_path, video, builds):
    IndexCache(tmp_path / "indices").get(video)
    assert_same(IndexCache(tmp_path / "indices").get(video), build_index(video))
    assert len(builds) == 1


def test_names_that_are_no_utf8(tmp_path, video, builds):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/Turnk\xfcnste.mp4")
    os.link(video, path)
    for _ in range(2):
        assert IndexCache(tmp_path / "indices").get(path).num_frames == build_index(video).num_frames
    assert len(builds) == 1


def test_memory_serves_the_second_time(video, builds):
    cache = IndexCache()
    assert cache.get(video) is cache.get(video)
    assert len(builds) == 1
    assert cache.file_of(video) is None


def test_a_changed_file_is_indexed_again(tmp_path, video, video_root, builds):
    cache = IndexCache(tmp_path / "indices")
    cache.get(video)
    os.replace(video_root / "train/run/1.mp4", video)
    os.utime(video, ns=(1, 1))
    assert_same(cache.get(video), build_index(video))
    assert_same(IndexCache(tmp_path / "indices").get(video), build_index(video))
    assert len(builds) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_torn_files_are_built_again(tmp_path, video, builds, content):
    IndexCache(tmp_path / "indices").get(video)
    file = IndexCache(tmp_path / "indices").file_of(video)
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert_same(IndexCache(tmp_path / "indices").get(video), build_index(video))
    IndexCache(tmp_path / "indices").get(video)
    assert len(builds) == 2, "and written again"


def test_other_files_are_refused(tmp_path, video, builds):
    cache = IndexCache(tmp_path / "indices")
    file = cache.file_of(video)
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps(build_index(video)))
    cache.get(video)
    assert len(builds) == 1


def test_started_processes_use_each_others_indices(video_root, builds):
    cache = IndexCache()
    cache.share()
    videos = [str(video_root / f"train/run/{i}.mp4") for i in range(3)]
    with get_context("fork").Pool(1) as pool:
        pool.map(cache.get, videos[:2])  # the cache is pickled as it is passed: that one shares nothing
        assert len(builds) == 0
    for method, chosen in (("fork", videos[0]), ("spawn", videos[1])):
        process = get_context(method).Process(target=cache.get, args=(chosen,))
        process.start()
        process.join()
        assert process.exitcode == 0
    for path in videos:
        assert_same(cache.get(path), build_index(path))
    assert len(builds) == 1, "of the third"


def test_what_is_handed_over_holds_no_indices(video_root, builds):
    """Every batch of lazy clips holds the reader, and that the cache."""
    cache, videos = IndexCache(), [str(video_root / f"train/run/{i}.mp4") for i in range(3)]
    size = len(pickle.dumps(cache))
    for path in videos:
        cache.get(path)
    assert len(pickle.dumps(cache)) == size
    cache.get(videos[0])
    assert len(builds) == 3, "kept where they were read"


def test_a_shared_index_of_a_changed_file_is_built_again(video, video_root, builds):
    first, second = IndexCache(), IndexCache()
    first.share()
    second._shared = first._shared
    first.get(video)
    second.get(video)
    os.replace(video_root / "train/run/1.mp4", video)
    os.utime(video, ns=(1, 1))
    assert_same(second.get(video), build_index(video))
    assert_same(first.get(video), build_index(video))
    assert len(builds) <= 3


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, video):
    (tmp_path / "file").touch()
    assert_same(IndexCache(tmp_path / "file").get(video), build_index(video))


def test_a_cache_that_must_be_written_is_an_error_otherwise(tmp_path, video):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        IndexCache(tmp_path / "file", must_store=True).get(video)


def test_memory_is_bounded(video_root, builds):
    cache = IndexCache(capacity=2)
    videos = [str(video_root / f"train/run/{i}.mp4") for i in range(3)]
    for video in [*videos, videos[2], videos[0]]:
        cache.get(video)
    assert len(builds) == 4


def test_unreadable_files_stay_unreadable(tmp_path):
    cache = IndexCache(tmp_path / "indices")
    for _ in range(2):
        with pytest.raises(UnreadableVideoError):
            cache.get(str(tmp_path / "gone.mp4"))
