"""The demo data: files that depend on nothing but their parameters, laid out in classes, whole after any restart."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.demo import SPLITS, DemoParameters, DemoVideo, make_demo_data
from datamodules.demo_scenes import ACTIONS

SMALL = {"num_train": 13, "num_val": 5, "num_test": 12, "size": 64}


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.mp4"))
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo_data(root, **SMALL, num_workers=1)
    return root


def test_files_do_not_depend_on_the_number_of_workers(demo: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path, **SMALL, num_workers=2)
    assert digests(tmp_path) == digests(demo)


def test_another_seed_gives_other_videos_of_the_same_names(demo: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path, **SMALL, num_workers=1, seed=1)
    other, one = digests(tmp_path), digests(demo)
    assert other.keys() == one.keys()
    assert not set(other.values()) & set(one.values())


def test_more_videos_leave_the_first_as_they_are(demo: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path, **(SMALL | {"num_train": 14, "num_test": 0}), num_workers=1)
    for name, digest in digests(tmp_path).items():
        assert digests(demo).get(name, digest) == digest


def test_all_videos_differ_and_splits_share_no_scene(demo: Path) -> None:
    found = digests(demo)
    assert len(set(found.values())) == len(found) == 13 + 5 + 12
    backgrounds = []
    for split in SPLITS:
        frame = DemoVideo(split, 0).render(DemoParameters(num_frames=1))[0]
        backgrounds.append(frame.reshape(-1, 3).mean(axis=0))
    assert min(np.abs(backgrounds[a] - backgrounds[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1
    scenes = {split: {name.split("_")[-2] for name in found if name.startswith(split)} for split in SPLITS}
    assert [len(scenes[split]) for split in SPLITS] == [3, 1, 3]


def test_classes_are_balanced() -> None:
    videos = list(DemoParameters().videos())
    assert Counter(video.split for video in videos)["test"] >= 1200
    for split in SPLITS:
        counts = Counter(video.action for video in videos if video.split == split)
        assert set(counts) == set(ACTIONS)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_classes_cross_what_moves_how_and_where() -> None:
    names = {action.name for action in ACTIONS}
    assert len(names) == len(ACTIONS) >= 10
    looks = Counter((action.shape, action.tint, action.pattern) for action in ACTIONS)
    deeds = Counter(action.motion for action in ACTIONS)
    assert max(looks.values()) > 1, "some classes must differ in motion only"
    assert set(deeds.values()) == {2}, "each motion must be shared by classes that differ in looks only"


def test_names_are_stable() -> None:
    assert DemoVideo("test", 17).path.as_posix() == "test/bouncing_triangle_on_blue_dots/test_scene0003_00017.mp4"


def test_files_are_three_gops_of_i_and_p_frames(demo: Path) -> None:
    for path in sorted(demo.rglob("*.mp4"))[::7]:
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
            frames = list(container.decode(video=0))
        assert [int(frame.pict_type) for frame in frames] == [1, *[2] * 11] * 3
        assert (frames[0].width, frames[0].height) == (64, 64)


def test_an_interrupted_run_is_completed(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = DemoVideo.render

    def until_killed(video: DemoVideo, parameters: DemoParameters) -> np.ndarray:
        if (video.split, video.index) == ("val", 2):
            raise KeyboardInterrupt
        return render(video, parameters)

    monkeypatch.setattr(DemoVideo, "render", until_killed)
    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path, **SMALL, num_workers=1)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(ValueError, match="seed"):
        make_demo_data(tmp_path, **SMALL, seed=1)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(kept) == 13 + 2

    monkeypatch.setattr(DemoVideo, "render", render)
    (next(iter(kept)).parent / ".half.mp4").write_bytes(b"")
    make_demo_data(tmp_path, **SMALL, num_workers=0)
    assert digests(tmp_path) == digests(demo)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "manifest.json").read_text())["num_videos"] == 30
    assert [path.name for path in tmp_path.glob("manifest*")] == ["manifest.json"]


def test_a_complete_set_is_left_alone(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DemoVideo, "render", lambda *_: pytest.fail("rendered again"))
    make_demo_data(demo, **SMALL, num_workers=1)


def test_other_parameters_and_other_folders_are_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed = 0, asked was 3; use --seed=0"):
        make_demo_data(demo, **SMALL, seed=3)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="--root"):
        make_demo_data(tmp_path, **SMALL)
    with pytest.raises(ValueError, match="--num_test"):
        make_demo_data(tmp_path / "new", num_test=-1)
    with pytest.raises(ValueError, match="--size"):
        make_demo_data(tmp_path / "new", size=63)
