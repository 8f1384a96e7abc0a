import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.annotations import ActivityNet

FILE = "activity_net.v1-3.min.json"


def entry(subset: str, *labels: str) -> dict[str, Any]:
    segments = [{"segment": [n, n + 1.5], "label": label} for n, label in enumerate(labels)]
    return {"duration": 9.9, "subset": subset, "resolution": "320x240", "url": "", "annotations": segments}


@pytest.fixture
def root(write, touch, tmp_path: Path) -> Path:
    names = [f"train______{n}" for n in range(10)]
    database = {name: entry("training", "Diving", *(["Archery"] * (n % 2))) for n, name in enumerate(names)}
    database["val________"] = entry("validation", "Diving", "Archery", "Diving")
    database["test_______"] = entry("testing")
    write(FILE, json.dumps({"database": database, "taxonomy": [], "version": "VERSION 1.3"}))
    touch(*(f"videos/v_{name}.mp4" for name in names[1:]), f"videos/{names[0]}.mkv", "v_val________.mp4")
    return tmp_path


def test_labels_of_all_segments_each_once(root):
    annotations = ActivityNet(str(root), check_sizes=False)
    assert annotations.classes == ["Archery", "Diving"]
    (record,) = annotations.records("test")
    assert (Path(record.path).name, record.label) == ("v_val________.mp4", (0, 1))
    train, val = annotations.records("train"), annotations.records("val")
    assert (len(train), len(val)) == (9, 1)
    found = {int(Path(record.path).stem[-1]): record.label for record in train + val}
    assert found == {n: (0, 1) if n % 2 else (1,) for n in range(10)}


def test_the_test_split_has_no_labels(root):
    annotations = ActivityNet(str(root), check_sizes=False, tested_on="test")
    assert [len(annotations.records(split)) for split in ("train", "val")] == [10, 1]
    with pytest.raises(ValueError, match=r"json, test_______: no label in the official split 'test'; .*not published"):
        annotations.records("test")


def test_sizes_are_checked(root):
    with pytest.raises(ValueError, match="official split 'train': expected 10024 videos, got 10;"):
        ActivityNet(str(root)).records("train")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"taxonomy": []}, r"json: expected an object with database \(dict\), got"),
        (
            {"database": {"a": {"annotations": []}}},
            r"json, a: expected an object with subset .*, annotations",
        ),
        ({"database": {"a": entry("trainings")}}, "json, a: expected subset training, validation, testing, got 'train"),
        (
            {"database": {"a": entry("training") | {"annotations": [{}]}}},
            "json, a: expected an object with label",
        ),
        ({"database": []}, r"json: expected an object with database \(dict\)"),
    ],
)
def test_a_wrong_entry_is_named(root, write, value, message):
    write(FILE, json.dumps(value))
    with pytest.raises(ValueError, match=message):
        ActivityNet(str(root), check_sizes=False).records("train")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{FILE}: no such list file \(config key: lists\)"):
        ActivityNet(str(tmp_path)).records("train")
