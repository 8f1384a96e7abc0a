import itertools
from collections import Counter
from pathlib import Path

import pytest

from datamodules.annotations import HMDB51

TAGS = "f_nm_np1_fr_goo"


@pytest.fixture
def full(write, on_disk, tmp_path: Path) -> Path:
    """51 classes with 70 training clips, 30 test clips and 5 of neither, from sources that classes share."""
    videos = []
    for number in range(51):
        name = f"class_{number:02d}"
        clips = [f"SOURCE{(7 * number + clip) % 97}_{name}_{TAGS}_{clip}.avi" for clip in range(105)]
        sides = itertools.chain([1] * 70, [2] * 30, [0] * 5)
        lines = [f"{clip} {side} \n" for clip, side in zip(clips, sides, strict=True)]
        write(f"testTrainMulti_7030_splits/{name}_test_split1.txt", "".join(lines))
        videos += [f"hmdb51_org/{name}/{clip}" for clip in clips]
    on_disk(videos)
    return tmp_path


@pytest.fixture
def small(write, touch, tmp_path: Path) -> Path:
    clips = {
        "wave": {"RATRACE_wave_f_nm_np1_fr_goo_37.avi": 1, "#a_b;_wave_u_cm_np2_ba_med_1.avi": 2, "X_wave_u.avi": 0},
        "draw_sword": {"RATRACE_draw_sword_f_nm_np1_fr_goo_3.avi": 1, "oddly_named.avi": 1},
    }
    for name, sides in clips.items():
        lines = [f"{clip} {side} \n" for clip, side in sides.items()]
        write(f"testTrainMulti_7030_splits/{name}_test_split2.txt", "".join(lines))
        touch(*(f"hmdb51_org/{name}/{clip}" for clip in sides))
    return tmp_path


def source(path: str) -> str:
    return Path(path).name.split("_class_")[0]


def test_official_sizes_and_sources_on_one_side(full):
    annotations = HMDB51(str(full))
    assert len(annotations.classes) == 51
    sides = {split: annotations.records(split) for split in ("train", "val", "test")}
    assert len(sides["train"]) + len(sides["val"]) == 3570
    assert set(Counter(record.label for record in sides["test"]).values()) == {30}
    assert len(sides["test"]) == 1530
    train, val = ({source(record.path) for record in sides[split]} for split in ("train", "val"))
    assert not train & val
    assert len(val) == round(0.1 * 97)
    assert all(Path(r.path).parent.name == annotations.classes[r.label] for r in sides["train"])


def test_a_cut_list_names_the_class(full):
    path = full / "testTrainMulti_7030_splits/class_07_test_split1.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    message = r"split 'train': expected 3570 videos, got 3569; classes without 70 videos: class_07 \(69\); restore"
    with pytest.raises(ValueError, match=message):
        HMDB51(str(full)).records("train")
    path.unlink()
    with pytest.raises(ValueError, match="expected 51 classes, got 50"):
        HMDB51(str(full)).records("train")


def test_sources_labels_and_unused_clips(small):
    annotations = HMDB51(str(small), split=2, check_sizes=False, val_fraction=0)
    assert annotations.classes == ["draw_sword", "wave"]
    assert [video.group for video in annotations.listed("train")] == ["RATRACE", "oddly_named", "RATRACE"]
    assert [record.label for record in annotations.records("train")] == [0, 0, 1]
    assert [Path(record.path).name for record in annotations.records("test")] == ["#a_b;_wave_u_cm_np2_ba_med_1.avi"]


@pytest.mark.parametrize("line", ["clip.avi 3", "clip.avi", "1"])
def test_a_wrong_line_is_named(small, write, line):
    path = write("testTrainMulti_7030_splits/wave_test_split2.txt", f"a_wave_f.avi 1\n{line}\n")
    with pytest.raises(ValueError, match=rf"{path}:2: expected `video\.avi 1` \(0, 1 or 2\), got"):
        HMDB51(str(small), split=2, check_sizes=False).records("train")


def test_no_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"testTrainMulti_7030_splits: no such folder \(config key: lists\)"):
        HMDB51(str(tmp_path)).records("train")
