import json
from pathlib import Path

import pytest

from datamodules.annotations import SomethingSomethingV2

PREFIX = "labels/something-something-v2-"
TEMPLATES = ("Putting [something] into [something]", "Holding [something]", "Pretending to [be] or to hold")


@pytest.fixture
def root(write, touch, tmp_path: Path) -> Path:
    train = [{"id": str(100 + n), "label": "putting a cup", "template": TEMPLATES[n % 2]} for n in range(20)]
    val = [{"id": "7", "label": "holding", "template": TEMPLATES[1], "placeholders": ["a cup"]}]
    write(f"{PREFIX}labels.json", json.dumps({"Putting something into something": "1", "Holding something": "0"}))
    write(f"{PREFIX}train.json", json.dumps(train))
    write(f"{PREFIX}validation.json", json.dumps(val))
    write(f"{PREFIX}test.json", json.dumps([{"id": "8"}, {"id": "9"}]))
    touch(*(f"20bn-something-something-v2/{name}.webm" for name in ("7", "8", "9", *range(100, 120))))
    return tmp_path


def test_templates_lose_their_brackets_and_labels_follow_their_numbers(root):
    annotations = SomethingSomethingV2(str(root), check_sizes=False)
    assert annotations.classes == ["Holding something", "Putting something into something"]
    train, val, test = (annotations.records(split) for split in ("train", "val", "test"))
    assert (len(train), len(val)) == (18, 2)
    assert all(record.label == 1 - int(Path(record.path).stem) % 2 for record in train + val)
    assert [(Path(record.path).name, record.label) for record in test] == [("7.webm", 0)]


def test_the_later_archive_has_no_prefix(root):
    for path in (root / "labels").iterdir():
        path.rename(path.with_name(path.name.removeprefix("something-something-v2-")))
    assert len(SomethingSomethingV2(str(root), check_sizes=False).records("train")) == 18


def test_answers_of_the_test_split(root, write):
    annotations = SomethingSomethingV2(str(root), check_sizes=False, tested_on="test")
    assert len(annotations.records("train")) == 20
    with pytest.raises(ValueError, match=r"test\.json, entry 0: no label in .*config key: tested_on"):
        annotations.records("test")
    write("labels/test-answers.csv", "9;Holding something\n8;Putting something into something\n")
    annotations = SomethingSomethingV2(str(root), check_sizes=False, tested_on="test")
    assert [record.label for record in annotations.records("test")] == [1, 0]
    path = write("labels/test-answers.csv", "9,Holding something\n")
    with pytest.raises(ValueError, match=rf"{path}:1: expected `id;class`, got"):
        SomethingSomethingV2(str(root), check_sizes=False, tested_on="test").records("test")


def test_sizes_are_checked(root):
    with pytest.raises(ValueError, match="official split 'train': expected 168913 videos, got 20;"):
        SomethingSomethingV2(str(root)).records("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "1"}]', r"train\.json, entry 0: expected an object with id \(str\), template \(str\), got"),
        ("[1]", r"train\.json, entry 0: expected an object with id \(str\), template \(str\), got 1"),
        ('[{"id": "1", "template": null}]', r"train\.json, entry 0: expected an object with id"),
        ('{"id": "1"}', r"train\.json: expected a JSON list, got a dict"),
        ("[{]", r"train\.json:1: no JSON"),
        ('[{"id": "1", "template": "Flying [something]"}]', r"train\.json, entry 0: .*no class 'Flying something'"),
    ],
)
def test_a_wrong_entry_is_named(root, write, text, message):
    write(f"{PREFIX}train.json", text)
    with pytest.raises(ValueError, match=message):
        SomethingSomethingV2(str(root), check_sizes=False).records("train")


def test_a_class_without_a_number(root, write):
    write(f"{PREFIX}labels.json", '{"Holding something": "first"}')
    with pytest.raises(ValueError, match=r"labels\.json: expected a number for each class"):
        SomethingSomethingV2(str(root), check_sizes=False).classes  # noqa: B018
