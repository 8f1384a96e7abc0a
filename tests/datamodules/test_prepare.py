"""Videos are re-encoded and indexed once, whole or not at all; training reads the same with and without."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from datamodules import prepare, video_source
from datamodules.annotations import find_videos
from datamodules.bitstream import build_index, encode_frames
from datamodules.bitstream.encode import Reencoded, reencode
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.index_cache import IndexCache
from datamodules.prepare import Prepared, prepare_videos
from datamodules.video_source import ReencodeCache, VideoSource


@pytest.fixture
def videos(video_root: Path, b_frame_video: Path) -> Path:
    """Four that are read as they are, four of which motion vectors are not, and one that is not read at all."""
    root = video_root.parent / "listed"
    for label in ("jump", "run"):
        (root / "train" / label).mkdir(parents=True)
        for number in range(2):
            shutil.copy(video_root / f"train/{label}/{number}.mp4", root / f"train/{label}/plain_{number}.mp4")
            shutil.copy(b_frame_video, root / f"train/{label}/b_{number}.mp4")
    (root / "train/run/junk.mp4").write_bytes(b"junk")
    return root


def source_in(folder: Path, *, streams: tuple[str, ...] = ("mv",), size: tuple[int, int] | None = None) -> VideoSource:
    return VideoSource(streams, IndexCache(folder / "index"), ReencodeCache(str(folder / "videos"), size))


def listed(root: Path) -> list[str]:
    return sorted(find_videos([str(root)]))


def prepared(source: VideoSource, paths: list[str], num_workers: int = 0) -> tuple[int, int, int, int]:
    """(read as they are, made, kept, failed)."""
    done = prepare_videos(source, paths, num_workers=num_workers)
    return done.as_is, done.made, done.kept, len(done.failures)


def state(folder: Path) -> dict[Path, tuple[int, str]]:
    """Time of change and hash of every file but leftovers."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def test_what_has_to_be_is_re_encoded_once_and_the_rest_indexed(videos: Path, tmp_path: Path) -> None:
    sources = state(videos)
    cache = tmp_path / "cache"
    assert prepared(source_in(cache), listed(videos), num_workers=2) == (4, 4, 0, 1)
    assert len(list(cache.glob("videos/b_*.mp4"))) == len(list(cache.glob("videos/*"))) == 4
    assert len(list(cache.glob("index/*/*.index"))) == 12, "of eight originals and four stand-ins"
    made = state(cache)
    assert prepared(source_in(cache), listed(videos)) == (4, 0, 4, 1)
    assert state(cache) == made
    assert state(videos) == sources
    (failure,) = prepare_videos(source_in(cache), listed(videos), num_workers=0).failures
    assert failure.path.endswith("junk.mp4")
    assert "its container or headers cannot be parsed" in failure.reason


def test_iframes_alone_need_no_stand_in(videos: Path, tmp_path: Path) -> None:
    assert prepared(source_in(tmp_path / "cache", streams=("iframe",)), listed(videos)) == (8, 0, 0, 1)
    assert not (tmp_path / "cache/videos").exists()


def test_training_reads_the_same_and_has_nothing_left_to_do(
    videos: Path, tmp_path: Path, count_calls: Callable[[object, str], list[dict]]
) -> None:
    (videos / "train/run/junk.mp4").unlink()

    def clips(folder: Path) -> dict[str, torch.Tensor]:
        options = {"streams": ["mv", "residual"], "size": 16, "num_segments": 4, "batch_size": 1}
        caches = {"index_cache": str(folder / "index"), "reencode_dir": str(folder / "videos")}
        data = CompressedVideoDataModule(predict_paths=[str(videos)], **options, **caches)
        return {f"{batch.paths[0]} {s}": batch.streams[s] for batch in data.predict_dataloader() for s in batch.streams}

    unprepared = clips(tmp_path / "lazily")
    streams = ("mv", "residual")
    assert prepared(source_in(tmp_path / "ahead", streams=streams), listed(videos), num_workers=2) == (4, 4, 0, 0)
    encoded, demuxed = (count_calls(video_source, name) for name in ("reencode", "build_index"))
    read = clips(tmp_path / "ahead")
    assert len(read) == 16
    assert read.keys() == unprepared.keys()
    assert all(torch.equal(read[key], unprepared[key]) for key in read)
    assert encoded == demuxed == []


def test_a_size_of_all(videos: Path, tmp_path: Path) -> None:
    """Stand-ins of other recipes do not serve; a video that has the size does."""
    paths = [path for path in listed(videos) if "plain" in path]
    small = tmp_path / "small.mp4"
    reencode(paths[0], small, size=(34, 26))
    assert prepared(source_in(tmp_path), paths) == (4, 0, 0, 0)
    assert prepared(source_in(tmp_path, size=(34, 26)), [*paths, str(small)]) == (1, 4, 0, 0)
    assert prepared(source_in(tmp_path, size=(40, 30)), paths) == (0, 4, 0, 0)
    with source_in(tmp_path, size=(34, 26)).open(paths[1]) as video:
        assert (video.width, video.height, video.num_frames) == (34, 26, 26)
        assert video.read(gop=0, position=1, streams=("mv",)).mv.shape == (26, 34, 2)


class TestFrameCounts:
    def test_of_source_and_stand_in_are_equal(self, videos: Path, tmp_path: Path) -> None:
        source = source_in(tmp_path)
        prepare_videos(source, listed(videos), num_workers=0)
        for path in (path for path in listed(videos) if "b_" in path):
            with av.open(path) as original, av.open(source.index(path).path) as stand_in:
                counts = [sum(1 for _ in container.decode(video=0)) for container in (original, stand_in)]
            assert counts == [26, 26]

    @pytest.mark.parametrize(
        ("decoded", "written", "said"),
        [
            (25, 25, "decoded, it has 25 of its 26 frames"),
            (26, 25, "re-encoded, it has 25 of its 26 frames"),
        ],
    )
    def test_a_lost_frame_is_a_failure(
        self,
        b_frame_video: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        decoded: int,
        written: int,
        said: str,
    ) -> None:
        def lossy(source: str, target: Path, **options: object) -> Reencoded:
            with av.open(source) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            encode_frames(frames[:written], target)
            return Reencoded(decoded, num_cut=0)

        monkeypatch.setattr(video_source, "reencode", lossy)
        (failure,) = prepare_videos(source_in(tmp_path), [str(b_frame_video)], num_workers=0).failures
        assert failure.path == str(b_frame_video)
        assert said in failure.reason
        assert not list(tmp_path.glob("videos/*")), "nor left there for training"

    def test_what_an_edit_list_cuts_is_not_lost(self, tmp_path: Path, encode_theirs: Callable[..., None]) -> None:
        """A clip cut without re-encoding starts at a keyframe, and says how many frames not to show."""
        encode_theirs(tmp_path / "long.mp4", codec="mpeg4", b_frames=2)
        clip = tmp_path / "clip.mp4"
        with av.open(str(tmp_path / "long.mp4")) as container, av.open(str(clip), "w") as cut:
            stream = container.streams.video[0]
            out = cut.add_stream_from_template(stream)
            offset = round(5 / 25 / stream.time_base)
            for packet in container.demux(stream):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, out
                    cut.mux(packet)
        with av.open(str(clip)) as container:
            shown = sum(1 for _ in container.decode(video=0))
        assert 0 < shown < build_index(clip).num_frames == 26
        assert prepared(source_in(tmp_path), [str(clip)]) == (0, 1, 0, 0)
        assert source_in(tmp_path).index(str(clip)).num_frames == shown


def test_a_torn_stand_in_is_made_again(b_frame_video: Path, tmp_path: Path) -> None:
    source = source_in(tmp_path)
    assert prepared(source, [str(b_frame_video)]) == (0, 1, 0, 0)
    stand_in = source.stand_ins.file_of(str(b_frame_video))
    whole = stand_in.read_bytes()
    stand_in.write_bytes(whole[:-100])
    assert prepared(source, [str(b_frame_video)]) == (0, 1, 0, 0)
    assert stand_in.read_bytes() == whole


def test_a_full_disk_ends_it(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video_source, "reencode", full)
    with pytest.raises(OSError, match="No space left"):
        prepare_videos(source_in(tmp_path), listed(videos), num_workers=0)


def test_what_the_file_system_refuses_is_a_failure(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(prepare.VideoSource, "index", refused)
    done = prepare_videos(source_in(tmp_path), listed(videos)[:2], num_workers=0)
    assert [failure.reason for failure in done.failures] == ["Permission denied; check the file system"] * 2


def test_a_run_killed_within_a_video_goes_on_behind_the_last_whole_one(videos: Path, tmp_path: Path) -> None:
    paths = [path for path in listed(videos) if "junk" not in path]
    undisturbed = prepare_videos(source_in(tmp_path / "undisturbed"), paths, num_workers=0)
    assert undisturbed == Prepared(as_is=4, made=4, kept=0, failures=[])
    cache = tmp_path / "cache"
    child = os.fork()
    if child == 0:
        kill_within_the_third_video()
        prepare_videos(source_in(cache), paths, num_workers=0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    before = state(cache)
    assert len(list(cache.glob("videos/b_*.mp4"))) == 2
    assert len(list(cache.glob("videos/.*"))) == 1, "a part of the third"
    assert prepared(source_in(cache), paths) == (4, 2, 2, 0)
    after = state(cache)
    assert before.items() <= after.items(), "what was whole is untouched"
    assert contents(cache) == contents(tmp_path / "undisturbed")


def kill_within_the_third_video() -> None:
    """In this process, which is a child."""
    calls = []

    def killing(*args: object, **options: object) -> Reencoded:
        calls.append(args)

        def kill(done: int, total: int) -> None:
            if len(calls) == 3 and done == 20:
                os.kill(os.getpid(), signal.SIGKILL)

        return reencode(*args, **options, progress=kill)

    video_source.reencode = killing


def contents(cache: Path) -> dict[str, str]:
    """Hashes of the stand-ins: equal frames give equal files."""
    return {path.name: digest for path, (_, digest) in state(cache / "videos").items()}


def test_processes_that_prepare_begin_without_pytorch() -> None:
    """Whose import takes longer than many a video."""
    program = "import sys, datamodules.prepare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
