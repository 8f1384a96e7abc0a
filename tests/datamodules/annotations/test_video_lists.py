from pathlib import Path

import pytest

from datamodules.annotations import VideoLists


def test_names_numbers_and_folders_as_labels(tmp_path):
    (tmp_path / "train.txt").write_text("run/a b.avi run\njump/b.avi jump\n\n")
    (tmp_path / "test.txt").write_text("run/c.avi\n")
    annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt")
    assert annotations.classes == ["jump", "run"]
    records = annotations.records("train")
    assert [(Path(r.path).name, r.label) for r in records] == [("a b.avi", 1), ("b.avi", 0)]
    assert annotations.records("test")[0].label == 1


def test_numbers_sort_by_value(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"v{i}.avi {i}\n" for i in (10, 9, 2, 1, 0)))
    assert VideoLists(str(tmp_path), train="train.txt").classes == ["0", "1", "2", "9", "10"]


def test_numbered_classes_file_as_ucf101(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    (tmp_path / "train.txt").write_text("Archery/v.avi 2\nApplyEyeMakeup/w.avi 1\n")
    (tmp_path / "test.txt").write_text("Archery/x.avi\n")
    annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt", classes_file="classInd.txt")
    assert annotations.classes == ["ApplyEyeMakeup", "Archery"]
    assert [r.label for r in annotations.records("train")] == [1, 0]
    assert [r.label for r in annotations.records("test")] == [1]


def test_plain_classes_file_counts_from_zero(tmp_path):
    (tmp_path / "classes.txt").write_text("zebra\nant walk\n")
    (tmp_path / "train.txt").write_text("a.avi 1\nb.avi 0\nc.avi zebra\n")
    annotations = VideoLists(str(tmp_path), train="train.txt", classes_file="classes.txt")
    assert annotations.classes == ["zebra", "ant walk"]
    assert [r.label for r in annotations.records("train")] == [1, 0, 0]


def test_several_labels(tmp_path):
    (tmp_path / "train.txt").write_text("a.mp4 run,jump\nb.mp4 swim\n")
    annotations = VideoLists(str(tmp_path), train="train.txt", multi_label=True)
    assert annotations.classes == ["jump", "run", "swim"]
    assert [r.label for r in annotations.records("train")] == [(0, 1), (2,)]


def test_errors_name_file_and_key(tmp_path):
    (tmp_path / "train.txt").write_text("a.avi run\n")
    (tmp_path / "test.txt").write_text("a.avi fly\n")
    annotations = VideoLists(str(tmp_path), train="train.txt", test="test.txt", val="val.txt")
    with pytest.raises(
        ValueError, match=r"test\.txt: training has no class 'fly'; .*config keys train or classes_file"
    ):
        annotations.records("test")
    with pytest.raises(FileNotFoundError, match=r"val\.txt: no such list file \(config key: val\)"):
        annotations.records("val")
    with pytest.raises(ValueError, match="config key: val"):
        VideoLists(str(tmp_path), train="train.txt").records("val")


def test_a_line_without_a_label_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("a.avi run\n\nnonsense\n")
    with pytest.raises(ValueError, match=r"train\.txt:3: expected `path label`, got 'nonsense'"):
        VideoLists(str(tmp_path), train="train.txt").records("train")
