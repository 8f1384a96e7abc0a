import logging
from pathlib import Path

import pytest

from datamodules.annotations import Kinetics400, MiniKinetics

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
NUMBERS = range(10)


@pytest.fixture
def root(write, touch, tmp_path: Path) -> Path:
    """Videos in class folders with spaces and with underscores, and flat; with and without times in their names."""
    ropes = [f"rock climbing,-a_{n:08d},{n},{n + 10},train,0\n" for n in NUMBERS]
    cakes = [f'"baking, slowly",-b_{n:08d},{n},{n + 10},train,0\n' for n in NUMBERS]
    write("annotations/train.csv", HEADER + "".join(ropes + cakes))
    val = '"baking, slowly",zzzzzzzzzzz,100,110,val,1\nrock climbing,yyyyyyyyyyy,0,10,val,0\n'
    write("annotations/val.csv", HEADER + val)
    write("annotations/test.csv", "youtube_id,time_start,time_end,split\nxxxxxxxxxxx,3,13,test\n")
    touch(*(f"train/rock climbing/-a_{n:08d}_{n:06d}_{n + 10:06d}.mp4" for n in NUMBERS))
    touch(*(f"train_256/baking_slowly/-b_{n:08d}.mkv" for n in NUMBERS))
    touch("val/zzzzzzzzzzz_000100_000110.mp4", "val/rock_climbing/yyyyyyyyyyy_000000_000010.mp4")
    touch("test/xxxxxxxxxxx_000003_000013.mp4")
    return tmp_path


def test_the_official_val_is_tested_on_and_ours_comes_from_train(root):
    annotations = Kinetics400(str(root), check_sizes=False)
    assert annotations.classes == ["baking, slowly", "rock climbing"]
    train, val, test = (annotations.records(split) for split in ("train", "val", "test"))
    assert (len(train), len(val)) == (18, 2)
    assert len({record.path for record in train + val}) == 20
    assert {(Path(r.path).parent.name, r.label) for r in train} == {("baking_slowly", 0), ("rock climbing", 1)}
    assert [(Path(record.path).name, record.label) for record in test] == [
        ("zzzzzzzzzzz_000100_000110.mp4", 0),
        ("yyyyyyyyyyy_000000_000010.mp4", 1),
    ]


def test_a_test_split_without_labels(root):
    annotations = Kinetics400(str(root), check_sizes=False, tested_on="test")
    assert [len(annotations.records(split)) for split in ("train", "val")] == [20, 2]
    with pytest.raises(ValueError, match=r"test\.csv:2: no label in .*not published, .* \(config key: tested_on"):
        annotations.records("test")


def test_a_test_split_with_labels(root, write):
    write("annotations/test.csv", HEADER + "rock climbing,xxxxxxxxxxx,3,13,test,0\n")
    (record,) = Kinetics400(str(root), check_sizes=False, tested_on="test").records("test")
    assert (Path(record.path).name, record.label) == ("xxxxxxxxxxx_000003_000013.mp4", 1)


def test_the_later_name_of_the_val_list(root):
    (root / "annotations/val.csv").rename(root / "annotations/validate.csv")
    assert len(Kinetics400(str(root), check_sizes=False).records("test")) == 2


def test_the_number_of_classes_is_checked(root):
    with pytest.raises(ValueError, match="annotations: expected 400 classes, got 2"):
        Kinetics400(str(root)).records("train")
    with pytest.raises(ValueError, match="annotations: expected 200 classes, got 2"):
        MiniKinetics(str(root)).records("train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,ten,20,train,0", r"train\.csv:2: expected seconds in column time_start, got 'ten'"),
        ("a,b,10,20", r"train\.csv:2: expected 6 columns"),
        (",b,10,20,train,0", r"train\.csv:2: no label"),
    ],
)
def test_a_wrong_row_is_named(root, write, row, message):
    write("annotations/train.csv", HEADER + row + "\n")
    with pytest.raises(ValueError, match=message):
        Kinetics400(str(root), check_sizes=False).records("train")


def test_a_list_without_labels_is_no_training_list(root, write):
    write("annotations/train.csv", "youtube_id,time_start,time_end,split\nxxxxxxxxxxx,3,13,train\n")
    with pytest.raises(ValueError, match=r"train\.csv: expected columns .*label, got .*config key: lists"):
        Kinetics400(str(root), check_sizes=False).classes  # noqa: B018


class TestMiniKinetics:
    @pytest.fixture
    def ids(self, root: Path, write) -> Path:
        write("annotations/train_ytid_list.txt", "".join(f"-{c}_{n:08d}\n" for c in "ab" for n in range(0, 10, 2)))
        write("annotations/val_ytid_list.txt", "yyyyyyyyyyy\n")
        return root

    def test_ids_choose_from_kinetics(self, ids):
        annotations = MiniKinetics(str(ids), check_sizes=False)
        listed = [record for split in ("train", "val") for record in annotations.records(split)]
        assert sorted(int(Path(record.path).stem[3:11]) for record in listed) == sorted([0, 2, 4, 6, 8] * 2)
        assert [record.label for record in annotations.records("test")] == [1]

    def test_ids_that_the_release_of_kinetics_lacks(self, ids, write, caplog):
        write("annotations/val_ytid_list.txt", "yyyyyyyyyyy\ngone_______\n")
        message = r"val_ytid_list\.txt, in .*val\.csv: 1 of 2 listed videos are missing: gone_______; .*max_missing"
        with pytest.raises(FileNotFoundError, match=message):
            MiniKinetics(str(ids), check_sizes=False).records("test")
        with caplog.at_level(logging.WARNING):
            assert len(MiniKinetics(str(ids), check_sizes=False, max_missing=1).records("test")) == 1
        assert caplog.text.count("gone_______") == 1

    def test_csv_files_of_its_own(self, root):
        annotations = MiniKinetics(str(root), check_sizes=False)
        assert [len(annotations.records(split)) for split in ("train", "val", "test")] == [18, 2, 2]
