from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.annotations import ClassFolders


@pytest.fixture
def folders(tmp_path: Path, touch: Callable[..., None]) -> Path:
    touch("train/run/b.mp4", "train/run/a.avi", "train/jump/c.mp4", "train/jump/notes.txt")
    touch("val/jump/d.mp4", "test/run/e.mp4", "train/.hidden/x.mp4", "train/run/.part.mp4")
    return tmp_path


def test_records_are_sorted_videos_with_stable_labels(folders):
    annotations = ClassFolders(str(folders))
    assert annotations.classes == ["jump", "run"]
    found = [(Path(r.path).name, r.label) for r in annotations.records("train")]
    assert found == [("c.mp4", 0), ("a.avi", 1), ("b.mp4", 1)]
    assert [r.label for r in annotations.records("val")] == [0]
    assert [r.label for r in annotations.records("test")] == [1]


def test_classes_without_a_training_split(tmp_path, touch):
    touch("test/b/x.mp4", "val/a/x.mp4")
    assert ClassFolders(str(tmp_path)).classes == ["a", "b"]


def test_nothing_is_read_before_it_is_needed():
    ClassFolders("/nowhere")


def test_errors_name_file_and_key(folders):
    with pytest.raises(FileNotFoundError, match=r"/nowhere: no such folder \(config key: root\)"):
        ClassFolders("/nowhere").classes  # noqa: B018
    with pytest.raises(ValueError, match="split: expected one of train, val, test, got 'dev'"):
        ClassFolders(str(folders)).records("dev")  # type: ignore[arg-type]
    (folders / "train" / "sit").mkdir()
    with pytest.raises(ValueError, match="sit: expected videos of the class, found none"):
        ClassFolders(str(folders)).records("train")


def test_a_class_that_training_does_not_have(folders, touch):
    touch("test/fly/x.mp4")
    with pytest.raises(ValueError, match="training has no class 'fly'; add it to train"):
        ClassFolders(str(folders)).records("test")
