from pathlib import Path

import pytest

from datamodules.annotations import UCF101

CLASSES = [f"Class{number:03d}" for number in range(1, 102)]
TRAINED, TESTED = range(8, 26), range(1, 8)


def clips(groups: range, count: int) -> list[str]:
    """`count` names, one after the other through classes and groups; a group has as many clips as that takes."""
    pairs = [(name, group) for name in CLASSES for group in groups]
    clips = [(name, group, clip) for clip in range(1, 8) for name, group in pairs][:count]
    return [f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi" for name, group, clip in sorted(clips)]


def numbered(names: list[str]) -> str:
    return "".join(f"{name} {CLASSES.index(name.split('/')[0]) + 1}\r\n" for name in names)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """Lists of the official sizes."""
    root = tmp_path_factory.mktemp("ucf101")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for n, name in enumerate(CLASSES, 1)))
    for split, num_train, num_test in ((1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)):
        (lists / f"trainlist0{split}.txt").write_text(numbered(clips(TRAINED, num_train)))
        (lists / f"testlist0{split}.txt").write_text("".join(f"{name}\r\n" for name in clips(TESTED, num_test)))
    return root


@pytest.fixture
def videos_of_split_1(on_disk) -> None:
    on_disk([f"UCF-101/{name}" for name in clips(TRAINED, 9537) + clips(TESTED, 3783)])


@pytest.fixture
def small(write, touch, tmp_path: Path) -> Path:
    """Two classes; the folder and the files of one differ in a letter's case, as in the data set."""
    write("ucfTrainTestlist/classInd.txt", "1 Archery\n2 HandstandPushups\n")
    names = {"Archery": "Archery", "HandstandPushups": "HandStandPushups"}
    train = [f"{c}/v_{n}_g{g:02d}_c01.avi" for c, n in names.items() for g in TRAINED]
    test = [f"{c}/v_{n}_g{g:02d}_c01.avi" for c, n in names.items() for g in TESTED]
    numbers = {"Archery": 1, "HandstandPushups": 2}
    write("ucfTrainTestlist/trainlist01.txt", "".join(f"{name} {numbers[name.split('/')[0]]}\n" for name in train))
    write("ucfTrainTestlist/testlist01.txt", "".join(f"{name}\n" for name in test))
    touch(*(f"UCF-101/{name}" for name in train + test))
    return tmp_path


def groups(annotations: UCF101, split) -> set[str]:
    return {Path(record.path).stem.rpartition("_g")[2][:2] for record in annotations.records(split)}


@pytest.mark.usefixtures("videos_of_split_1")
def test_official_sizes(full):
    annotations = UCF101(str(full))
    assert annotations.classes == CLASSES
    sides = {split: annotations.records(split) for split in ("train", "val", "test")}
    assert len(sides["train"]) + len(sides["val"]) == 9537
    assert len(sides["test"]) == 3783
    assert {record.label for record in sides["test"]} == set(range(101))
    for records in sides.values():
        assert all(Path(record.path).parent.name == CLASSES[record.label] for record in records)


@pytest.mark.usefixtures("videos_of_split_1")
@pytest.mark.parametrize(("split", "num_train", "num_test"), [(2, 9586, 3734), (3, 9624, 3696)])
def test_official_sizes_of_the_other_splits(full, split, num_train, num_test):
    annotations = UCF101(str(full), split=split, max_missing=0.5, val_fraction=0)
    for side, count in (("train", num_train), ("test", num_test)):
        assert annotations.records(side)
        assert len(annotations.listed(side)) == count


@pytest.mark.usefixtures("videos_of_split_1")
def test_a_cut_list_names_the_videos_that_it_lacks(full, tmp_path):
    (tmp_path / "lists").mkdir()
    for path in (full / "ucfTrainTestlist").iterdir():
        lines = path.read_text().splitlines()
        cut = lines[:-2] if path.name == "trainlist01.txt" else lines
        (tmp_path / "lists" / path.name).write_text("\n".join(cut))
    message = r"expected 9537 videos, got 9535; on the disk and in no list: .*Class101_g25_c04\.avi, .*_g25_c05\.avi; "
    with pytest.raises(ValueError, match=message):
        UCF101(str(full), lists=str(tmp_path / "lists")).records("train")


def test_groups_stand_on_one_side(small):
    annotations = UCF101(str(small), check_sizes=False)
    train, val = groups(annotations, "train"), groups(annotations, "val")
    assert not train & val
    assert len(val) == 2
    assert train | val == {f"{group:02d}" for group in TRAINED}
    assert groups(annotations, "test") == {f"{group:02d}" for group in TESTED}


def test_a_miniature_is_refused_unless_said(small):
    with pytest.raises(ValueError, match=r"official split 'train': expected 9537 videos, got 36; restore"):
        UCF101(str(small)).records("train")
    records = UCF101(str(small), check_sizes=False).records("test")
    assert [record.label for record in records] == [0] * 7 + [1] * 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery v_Archery_g08_c01.avi 1", r"expected `Class/v_Class_g01_c01\.avi 1`"),
        ("Archery/v_Archery_g08_c01.avi 2", r"class 2 is HandstandPushups in classInd\.txt, not Archery"),
        ("Archery/v_Archery_g08_c01.avi 3", r"class 3 is None in classInd\.txt, not Archery"),
        ("Arch/v_Archery_g08_c01.avi", "no class 'Arch'; expected one of the 2 classes"),
    ],
)
def test_a_wrong_line_is_named(small, write, line, message):
    path = write("ucfTrainTestlist/trainlist01.txt", f"Archery/v_Archery_g09_c01.avi 1\n{line}\n")
    with pytest.raises(ValueError, match=rf"{path}:2: .*{message}"):
        UCF101(str(small), check_sizes=False).records("train")


def test_a_split_that_there_is_not(small):
    with pytest.raises(ValueError, match="split: expected one of 1, 2, 3, got 4"):
        UCF101(str(small), split=4)  # type: ignore[arg-type]
