from pathlib import Path

import pytest

from datamodules.annotations import FCVID

VIDEOS, LABELS = "materials/FCVID_VideoName_TrainTestSplit.txt", "materials/FCVID_Label.txt"


@pytest.fixture
def root(write, touch, tmp_path: Path) -> Path:
    """Files of one name in two folders; ten training videos, two to be tested on."""
    names = [f"panda/{n}.mp4" for n in range(6)] + [f"multiple/{n}.flv" for n in range(6)]
    sides = ["test" if name.startswith(("panda/5", "multiple/5")) else "train" for name in names]
    write(VIDEOS, "".join(f"{name}\t{side}\r\n" for name, side in zip(names, sides, strict=True)))
    write(LABELS, "0\t1\t0\r\n" * 6 + "1\t1\t0\r\n" * 6)
    touch(*(f"videos/{name}" for name in names))
    return tmp_path


def test_columns_are_labels(root):
    annotations = FCVID(str(root), check_sizes=False)
    assert annotations.classes == ["0", "1", "2"]
    train, val, test = (annotations.records(split) for split in ("train", "val", "test"))
    assert (len(train), len(val)) == (9, 1)
    assert all(r.label == ((1,) if Path(r.path).parent.name == "panda" else (0, 1)) for r in train + val)
    found = [(str(Path(record.path).relative_to(root)), record.label) for record in test]
    assert found == [("videos/panda/5.mp4", (1,)), ("videos/multiple/5.flv", (0, 1))]


def test_a_missing_video_is_not_taken_from_another_folder(root):
    (root / "videos/panda/5.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 listed videos are missing: panda/5;"):
        FCVID(str(root), check_sizes=False).records("test")


def test_names_of_the_columns(root, write):
    write("classInd.txt", "1 birthday\n2 panda\n3 skiing\n")
    annotations = FCVID(str(root), classes_file="classInd.txt", check_sizes=False)
    assert annotations.classes == ["birthday", "panda", "skiing"]
    assert [record.label for record in annotations.records("test")] == [(1,), (0, 1)]
    write("classInd.txt", "birthday\npanda\n")
    with pytest.raises(ValueError, match=r"a class for each of the 3 columns .* got 2 \(config key: classes_file\)"):
        FCVID(str(root), classes_file="classInd.txt", check_sizes=False).records("test")


def test_sizes_are_checked(root):
    with pytest.raises(ValueError, match="expected 239 classes, got 3"):
        FCVID(str(root)).records("train")


def test_rows_and_lines_are_as_many(root, write):
    write(LABELS, "0 1 0\n" * 11)
    with pytest.raises(ValueError, match=r"FCVID_Label\.txt: expected a row for each of the 12 lines of .*, got 11"):
        FCVID(str(root), check_sizes=False).records("train")


@pytest.mark.parametrize("row", ["0 1", "0 1 2", "0 x 1"])
def test_a_wrong_row_is_named(root, write, row):
    path = write(LABELS, "0 1 0\n" * 11 + row)
    with pytest.raises(ValueError, match=rf"{path}:12: expected 3 columns of 0 or 1, got '{row}'"):
        FCVID(str(root), check_sizes=False).records("test")


@pytest.mark.parametrize("line", ["panda/0.mp4", "panda/0.mp4 val", "train"])
def test_a_wrong_line_is_named(root, write, line):
    path = write(VIDEOS, f"{line}\n" * 12)
    with pytest.raises(ValueError, match=rf"{path}:1: expected `folder/video train` or `test`, got"):
        FCVID(str(root), check_sizes=False).records("train")
