"""A seeded part of Kinetics-400: what is chosen, against the digests themselves; the list that is written down."""

import ast
import csv
import hashlib
import random
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from datamodules.annotations import Kinetics400, KineticsSubset
from datamodules.annotations.groups import ranked
from lightning_modules.cli import main

ROOT = Path(__file__).parents[3]
COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
LABELS = ("vault", "ice skating", "baking, slowly", "archery")
Row = tuple[str | int, ...]


def row(label: str, number: int, split: str) -> Row:
    return (label, f"{label[0]}_{split[0]}_{number:07d}", number, number + 10, split, 0)


def name_of(row: Row) -> str:
    return f"{row[1]}_{row[2]:06d}_{row[3]:06d}"


TRAIN = [row(label, number, "train") for number in range(30) for label in LABELS]
VAL = [row(label, number, "val") for number in range(4) for label in LABELS]


def first(rows: Iterable[Row], count: int, seed: int) -> set[str]:
    """The names whose digests are the smallest numbers."""
    digests = {int(hashlib.sha256(f"{seed} {name_of(r)}".encode()).hexdigest(), 16): name_of(r) for r in rows}
    return {digests[number] for number in sorted(digests)[:count]}


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[str, list[Row]], None]:
    """Write `annotations/<split>.csv`."""

    def write(split: str, rows: list[Row]) -> None:
        path = tmp_path / f"annotations/{split}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])

    return write


@pytest.fixture
def root(write_rows: Callable[..., None], touch: Callable[..., None], tmp_path: Path) -> str:
    write_rows("train", TRAIN)
    write_rows("val", VAL)
    touch(*(f"videos/{name_of(row)}.mp4" for row in TRAIN + VAL))
    return str(tmp_path)


def chosen(root: str, **options: object) -> set[str]:
    given: dict = {"class_names": ["vault", "baking, slowly"], "videos_per_class": 7, "val_fraction": 0.2} | options
    annotations = KineticsSubset(root, **given)
    return {Path(record.path).stem for split in ("train", "val") for record in annotations.records(split)}


@pytest.mark.parametrize("seed", [0, 1])
def test_videos_with_the_smallest_digests_are_chosen(root, seed):
    expected = [first([r for r in TRAIN if r[0] == label], 7, seed) for label in ("vault", "baking, slowly")]
    assert chosen(root, subset_seed=seed) == set.union(*expected)
    assert chosen(root, subset_seed=0) != chosen(root, subset_seed=1)


def test_order_of_digests():
    """By `printf "0 a" | sha256sum`, and so on."""
    known = {"a": "cf6d9263", "b": "840fca44", "c": "edc88b07"}
    assert ranked(["a", "b", "c", "a"], 0) == sorted(known, key=known.__getitem__)


def test_neither_order_nor_other_videos_move_the_choice(root, write_rows):
    before = chosen(root)
    rows = random.Random(3).sample(TRAIN, len(TRAIN))
    write_rows("train", rows)
    assert chosen(root) == before
    write_rows("train", [r for r in rows if name_of(r) in before or r[2] % 2])
    assert chosen(root) == before
    gone = sorted(before)[0]
    write_rows("train", [r for r in rows if name_of(r) != gone])
    came = chosen(root)
    assert before - came == {gone}
    assert len(came - before) == 1
    assert came < chosen(root, videos_per_class=9), "a larger subset has a smaller one"


def test_all_videos_of_the_classes_are_tested_on(root):
    annotations = KineticsSubset(root, ["vault", "baking, slowly"], 7)
    assert annotations.classes == ["baking, slowly", "vault"]
    tested = {(Path(record.path).stem, record.label) for record in annotations.records("test")}
    assert tested == {(name_of(r), ["baking, slowly", "vault"].index(r[0])) for r in VAL if r[0] in annotations.classes}


def test_a_class_with_fewer_gives_all(root):
    assert chosen(root, videos_per_class=99) == {name_of(r) for r in TRAIN if r[0] in ("vault", "baking, slowly")}


def test_a_test_split_without_labels_is_refused(root, write):
    write("annotations/test.csv", "youtube_id,time_start,time_end,split\nxxxxxxxxxxx,3,13,test\n")
    with pytest.raises(ValueError, match=r"test\.csv:2: no label .* \(config key: tested_on"):
        KineticsSubset(root, ["vault"], 7, tested_on="test").records("test")


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        ([], 7, r"class_names: expected different classes of Kinetics-400, got \[\]"),
        (["vault", "vault"], 7, r"class_names: expected different classes .* got \['vault', 'vault'\]"),
        (["vault"], 0, "videos_per_class: expected 1 or more, got 0"),
        (["vault", "valt"], 7, r"train\.csv: training has no class 'valt'; .*\(config key: class_names\)"),
    ],
)
def test_wrong_values_are_named(root, names, count, message):
    with pytest.raises(ValueError, match=message):
        KineticsSubset(root, names, count, check_sizes=False).records("train")


def test_the_list_is_written_in_kinetics_own_format(root, tmp_path, capsys):
    config = tmp_path / "annotations.yaml"
    options = {"root": root, "class_names": ["vault", "baking, slowly"], "videos_per_class": 7}
    config.write_text(yaml.safe_dump({"class_path": "datamodules.annotations.KineticsSubset", "init_args": options}))
    output = tmp_path / "subset/train.csv"
    for video in (tmp_path / "videos").iterdir():
        video.unlink()
    main(["kinetics-subset", "--annotations", str(config), "--output", str(output)])
    assert "22 videos of 2 classes" in capsys.readouterr().out
    with output.open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    names = set.union(*(first([r for r in TRAIN if r[0] == label], 7, 0) for label in options["class_names"]))
    expected = [r for r in TRAIN if name_of(r) in names] + [r for r in VAL if r[0] in options["class_names"]]
    assert rows == [tuple(map(str, r[:5])) for r in expected]
    assert len(Kinetics400(root, lists="subset").listed("train")) == 22


def test_our_classes_are_the_first_of_all_400():
    """Against the list that decord has of them, which writes `hurling_-sport-` for `hurling (sport)`."""
    decord = find_spec("decord")
    if decord is None or decord.origin is None:
        pytest.skip("decord has wheels for x86-64 Linux and Windows alone")
    source = (Path(decord.origin).parent / "data/kinetics/kinetics400_action.py").read_text()
    lists = [ast.literal_eval(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.List)]
    names = [re.sub("-(.*)-", r"(\1)", name.replace("_", " ")) for name in max(lists, key=len)]
    assert len(set(names)) == 400
    given = yaml.safe_load((ROOT / "configs/kinetics_subset/annotations.yaml").read_text())["init_args"]
    by_digest = sorted(names, key=lambda name: int(hashlib.sha256(f"0 {name}".encode()).hexdigest(), 16))
    assert given["class_names"] == sorted(by_digest[:40])
    assert (given["subset_seed"], 40 * given["videos_per_class"]) == (0, 10_000)
