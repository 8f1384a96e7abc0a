import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typing_extensions import override

from datamodules.annotations import Split
from datamodules.annotations.groups import shuffled
from datamodules.annotations.list_files import read_lines
from datamodules.annotations.official_splits import ListedVideo, OfficialSplits, ValidatedSplits

GROUPS = [f"{number:02d}" for number in range(20)]


class Letters(OfficialSplits):
    """Lines `<class><group>` in train.txt, val.txt and test.txt."""

    files: Mapping[Split, Sequence[str]] = {"train": ("train.txt",), "val": ("val.txt",), "test": ("test.txt",)}
    num_classes = 2
    sizes: Mapping[Split, int] = {"train": 40, "test": 4}

    @override
    def read_classes(self):
        return ["a", "b"]

    @override
    def read_split(self, split):
        lines = read_lines(self.list_file(split), "lists")
        return [ListedVideo((text,), None if text[0] == "?" else (text[0],), text[1:], at) for at, text in lines]


class ValidatedLetters(ValidatedSplits, Letters):
    pass


@pytest.fixture
def letters(write, touch, tmp_path: Path) -> str:
    train = [f"{name}{group}" for name in "ab" for group in GROUPS]
    for split, names in {"train": train, "val": ["a30", "b30"], "test": ["a40", "b40", "a41", "b41"]}.items():
        write(f"{split}.txt", "\n".join(names))
        touch(*(f"videos/{name}.avi" for name in names))
    return str(tmp_path)


def names(annotations, split):
    return [Path(record.path).stem for record in annotations.records(split)]


def groups(annotations, split):
    return {name[1:] for name in names(annotations, split)}


class TestCarving:
    def test_no_group_on_both_sides_none_lost_and_none_from_test(self, letters):
        annotations = Letters(letters, val_fraction=0.25)
        train, val = groups(annotations, "train"), groups(annotations, "val")
        assert not train & val
        assert train | val == set(GROUPS)
        assert len(val) == 5
        assert groups(annotations, "test") == {"40", "41"}
        assert Counter(record.label for record in annotations.records("val")) == {0: 5, 1: 5}

    def test_seed_alone_decides(self, letters):
        first = groups(Letters(letters), "val")
        assert first == groups(Letters(letters), "val")
        assert any(first != groups(Letters(letters, seed=seed), "val") for seed in range(1, 5))

    def test_neither_order_of_lines_nor_missing_videos_move_a_group(self, letters, write):
        first = groups(Letters(letters), "val")
        write("train.txt", "\n".join(reversed((Path(letters) / "train.txt").read_text().split())))
        next(path for path in (Path(letters) / "videos").iterdir() if path.stem[1:] in first).unlink()
        assert groups(Letters(letters, max_missing=1), "val") == first

    def test_without_a_fraction_training_has_all_groups(self, letters):
        annotations = Letters(letters, val_fraction=0)
        assert groups(annotations, "train") == set(GROUPS)
        with pytest.raises(ValueError, match=r"no video is left for split 'val' \(config key: val_fraction\)"):
            annotations.records("val")

    def test_a_class_that_carving_takes_out_of_training(self, letters, write):
        write("train.txt", "a00\nb01\nb02\n")
        seed = next(seed for seed in range(20) if shuffled(["00", "01", "02"], seed)[0] == "00")
        with pytest.raises(ValueError, match=r"split 'val': training has no class 'a'; .*change seed or val_fraction"):
            Letters(letters, seed=seed, check_sizes=False).records("train")


class TestFraction:
    def test_that_share_of_every_split_and_always_the_same_videos(self, letters, write):
        few, all_of_it = Letters(letters, fraction=0.25), Letters(letters)
        for split, count in {"train": 9, "val": 1, "test": 1}.items():
            assert len(few.records(split)) == count
            assert set(names(few, split)) <= set(names(all_of_it, split))
        first = set(names(few, "train"))
        write("train.txt", "\n".join(reversed((Path(letters) / "train.txt").read_text().split())))
        assert set(names(Letters(letters, fraction=0.25), "train")) == first
        assert set(names(Letters(letters, fraction=0.5), "train")) > first
        assert set(names(Letters(letters, fraction=0.25, val_fraction=0), "train")) != first

    def test_what_is_left_out_need_not_be_there(self, letters):
        used = set(names(Letters(letters, fraction=0.25), "train"))
        for path in (Path(letters) / "videos").iterdir():
            if path.stem in names(Letters(letters), "train") and path.stem not in used:
                path.unlink()
                break
        assert set(names(Letters(letters, fraction=0.25), "train")) == used
        with pytest.raises(FileNotFoundError, match="1 of 36 listed videos are missing"):
            Letters(letters).records("train")

    @pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
    def test_no_share(self, letters, fraction):
        with pytest.raises(ValueError, match="fraction: expected a number above 0, up to 1"):
            Letters(letters, fraction=fraction)


class TestValidatedSplits:
    def test_tested_on_the_official_val(self, letters):
        annotations = ValidatedLetters(letters)
        assert names(annotations, "test") == ["a30", "b30"]
        assert groups(annotations, "train") | groups(annotations, "val") == set(GROUPS)
        assert not groups(annotations, "train") & groups(annotations, "val")

    def test_tested_on_the_official_test(self, letters):
        annotations = ValidatedLetters(letters, tested_on="test")
        assert names(annotations, "test") == ["a40", "b40", "a41", "b41"]
        assert names(annotations, "val") == ["a30", "b30"]
        assert groups(annotations, "train") == set(GROUPS)

    def test_labels_that_are_not_published(self, letters, write):
        path = write("test.txt", "?40\n?41\n?42\n?43")
        with pytest.raises(ValueError, match=rf"{path}:1: no label in .*not published, .* \(config key: tested_on"):
            ValidatedLetters(letters, tested_on="test").records("test")
        assert names(ValidatedLetters(letters), "test") == ["a30", "b30"]

    def test_an_unknown_split(self, letters):
        with pytest.raises(ValueError, match="tested_on: expected one of val, test, got 'train'"):
            ValidatedLetters(letters, tested_on="train")
        with pytest.raises(ValueError, match="split: expected one of train, val, test, got 'dev'"):
            ValidatedLetters(letters).records("dev")  # type: ignore[arg-type]


class TestMissingVideos:
    @pytest.fixture
    def without_one(self, letters: str) -> str:
        (Path(letters) / "videos/a41.avi").unlink()
        return letters

    def test_none_may_be_missing_unless_said(self, without_one):
        message = r"split 'test': .*: 1 of 4 listed videos are missing: a41; .*config key: max_missing.*root, videos"
        with pytest.raises(FileNotFoundError, match=message):
            Letters(without_one).records("test")

    @pytest.mark.parametrize("limit", [1, 0.25])
    def test_a_number_or_a_fraction_may(self, without_one, limit, caplog):
        with caplog.at_level(logging.WARNING):
            assert names(Letters(without_one, max_missing=limit), "test") == ["a40", "b40", "b41"]
        assert "1 of 4 listed videos are missing: a41; going on without" in caplog.text

    def test_a_smaller_fraction_may_not(self, without_one):
        with pytest.raises(FileNotFoundError, match="1 of 4"):
            Letters(without_one, max_missing=0.24).records("test")

    def test_not_all_in_any_case(self, letters):
        for path in (Path(letters) / "videos").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError, match=r"4 of 4 .*: a40, b40, a41, b41;"):
            Letters(letters, max_missing=1.0).records("test")

    def test_only_the_first_are_named(self, letters):
        for name in [*GROUPS[:9], "40"]:
            (Path(letters) / f"videos/a{name}.avi").unlink()
        with pytest.raises(FileNotFoundError, match=r"9 of 40 .*: a00, a01, a02, a03, a04, \.\.\.;"):
            Letters(letters, val_fraction=0).records("train")

    @pytest.mark.parametrize("limit", [-1, 1.5])
    def test_no_such_limit(self, letters, limit):
        with pytest.raises(ValueError, match="max_missing: expected a number of videos, or a fraction"):
            Letters(letters, max_missing=limit)


class TestSizes:
    def test_too_few_names_what_is_on_the_disk_and_in_no_list(self, letters, write):
        write("test.txt", "a40\nb40\nb41\n")
        message = r"official split 'test': expected 4 videos, got 3; on the disk and in no list: .*a30\.avi, .*a41\.avi"
        with pytest.raises(ValueError, match=message):
            Letters(letters).records("test")
        assert names(Letters(letters, check_sizes=False), "test") == ["a40", "b40", "b41"]

    def test_too_many_names_what_is_listed_twice(self, letters, write):
        write("test.txt", "a40\nb40\na41\nb41\nb40\n")
        with pytest.raises(ValueError, match=r"expected 4 videos, got 5; listed twice: b40; .*check_sizes: false"):
            Letters(letters).records("test")

    def test_sizes_per_class_name_the_class(self, letters, write, monkeypatch):
        monkeypatch.setattr(Letters, "class_sizes", {"train": 20, "test": 2})
        write("test.txt", "a40\nb40\nb41\n")
        with pytest.raises(ValueError, match=r"got 3; classes without 2 videos: a \(1\); restore"):
            Letters(letters).records("test")

    def test_number_of_classes(self, letters, monkeypatch):
        monkeypatch.setattr(Letters, "num_classes", 3)
        with pytest.raises(ValueError, match=r"expected 3 classes, got 2; .*check_sizes: false"):
            Letters(letters).classes  # noqa: B018
        assert Letters(letters, check_sizes=False).classes == ["a", "b"]


def test_a_class_that_there_is_not(letters, write):
    path = write("test.txt", "a40\nc40\nb41\na41")
    with pytest.raises(ValueError, match=rf"{path}:2: .*no class 'c'; expected one of the 2 classes"):
        Letters(letters).records("test")


def test_no_list(letters):
    with pytest.raises(FileNotFoundError, match=r"gone: expected train\.txt, found none \(config key: lists\)"):
        Letters(letters, lists="gone").records("train")


def test_val_fraction_is_checked(letters):
    with pytest.raises(ValueError, match="val_fraction: expected a number from 0 to below 1, got 1"):
        Letters(letters, val_fraction=1)


def test_nothing_is_read_before_it_is_needed():
    Letters("/nowhere")
